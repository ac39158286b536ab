//! Two managers' hubs on the same entries: whose mesh is how far, and who waits for whom.

use skep_api::{
    Id, ServiceId, TaskState, Timestamp,
    object::{Node, NodeState, Service, Task, TaskStatus},
    spec::{NodeSpec, PortConfig, Role, ServiceSpec},
};
use skep_store::{Change, Draft};

use super::*;
use crate::dispatcher::Heard;

const A: NodeId = NodeId(Id(1));
const B: NodeId = NodeId(Id(2));

fn push(view: &View, changes: Vec<Change>) -> View {
    let mut draft = Draft::new(view.clone(), Timestamp(1));
    for change in changes {
        draft.push(change).expect("the test's changes are sound");
    }
    View::clone(&draft)
}

/// Two nodes, and a task on the first one behind a published port, running.
fn running() -> (View, Task) {
    let node = |id| {
        let mut node = Node { id, ..Node::default() };
        node.status.state = NodeState::Ready;
        Change::PutNode(Arc::new(node))
    };
    let port = PortConfig {
        target_port: 80,
        published_port: 8080,
        publish_mode: "ingress".to_owned(),
        ..PortConfig::default()
    };
    let service = Service { id: ServiceId(Id(5)), ports: vec![port].into(), ..Service::default() };
    let view = push(&View::default(), vec![node(A), node(B), Change::PutService(Arc::new(service))]);
    let mut task = Task::new(TaskId(Id(6)), view.service(ServiceId(Id(5))).expect("just put"), 1);
    task.node_id = Some(A);
    task.ingress_addr = Some("10.255.0.2".parse().expect("an address"));
    let status = TaskStatus { state: TaskState::Running, ..TaskStatus::default() };
    let view =
        push(&view, vec![Change::PutTask(Arc::new(task.clone())), Change::TaskStatus(task.id, status)]);
    (view, task)
}

fn read(told: &wire::Told) -> Vec<Heard> {
    let read = |heard: &wire::Heard| Heard {
        node: NodeId::from_bytes(&heard.node_id).expect("an id"),
        at: Instant::now(),
        applied: heard.mesh_revision,
    };
    told.heard.iter().map(read).collect()
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_agents_of_all_managers_whatever_each_of_them_skipped() {
    let (view, task) = running();
    let (here, there) = (Hub::new(), Hub::new());
    let (aside, _keep) = mpsc::channel(1);
    let a = here.connect(A, aside.clone());
    let b = there.connect(B, aside);
    for hub in [&here, &there] {
        hub.refresh(&view);
    }
    here.heard(A, a.session, view.revision());
    there.heard(B, b.session, view.revision());
    assert!(!here.is_drained(&task), "it takes connections");

    let stopping = Task { desired_state: TaskState::Shutdown, ..task.clone() };
    let left = push(&view, vec![Change::PutTask(Arc::new(stopping.clone()))]);
    let other = Service {
        id: ServiceId(Id(9)),
        spec: Arc::new(ServiceSpec { name: "other".to_owned(), ..ServiceSpec::default() }),
        ..Service::default()
    };
    let after = push(&left, vec![Change::PutService(Arc::new(other))]);
    // One looks when both have happened, the other in between too.
    here.refresh(&after);
    there.refresh(&left);
    let newest = a.mesh.borrow().revision;
    here.heard(A, a.session, newest);
    here.take_told(B, &read(&there.to_tell()));
    assert!(!here.is_drained(&stopping), "the other manager's agent sends connections yet");
    there.heard(B, b.session, b.mesh.borrow().revision);
    here.take_told(B, &read(&there.to_tell()));
    assert!(!here.is_drained(&stopping), "it has not looked at the second entry yet");
    there.refresh(&after);
    assert!(b.mesh.borrow().revision < newest, "nothing changed for its agents");
    here.take_told(B, &read(&there.to_tell()));
    assert!(here.is_drained(&stopping));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_a_second_at_most_and_not_for_the_forgotten() {
    let (view, task) = running();
    let hub = Hub::new();
    hub.refresh(&view);
    let stale = |node| Heard { node, at: Instant::now(), applied: view.revision() };
    hub.take_told(B, &[stale(A), stale(B)]);
    let stopping = Task { desired_state: TaskState::Shutdown, ..task };
    hub.refresh(&push(&view, vec![Change::PutTask(Arc::new(stopping.clone()))]));
    assert!(!hub.is_drained(&stopping));
    tokio::time::advance(DRAIN_MAX).await;
    assert!(hub.is_drained(&stopping));
    tokio::time::advance(DRAIN_MAX).await;
    assert_eq!(hub.forget_silent(), Lost { agents: vec![A], managers: vec![B] });
}

#[tokio::test(start_paused = true)]
async fn a_node_is_where_its_newest_session_is() {
    let hub = Hub::new();
    let (aside, _keep) = mpsc::channel(1);
    let first = hub.connect(A, aside.clone());
    let told = |node| [Heard { node, at: Instant::now(), applied: 0 }];
    hub.take_told(B, &told(NodeId(Id(7))));
    assert_eq!(hub.whereabouts(A), Whereabouts::Here);
    assert_eq!(hub.whereabouts(NodeId(Id(7))), Whereabouts::With(B));
    assert_eq!(hub.helpers(A, 3), [NodeId(Id(7))]);

    let second = hub.connect(A, aside);
    assert!(!hub.is_current(A, first.session) && hub.is_current(A, second.session));
    assert!(!hub.disconnect(A, first.session), "it has another one");
    assert_eq!(hub.take_told(B, &told(A)), [NodeId(Id(7))], "its only one");
    assert!(!hub.disconnect(A, second.session), "it has one there");
    assert_eq!(hub.whereabouts(A), Whereabouts::With(B));
    assert_eq!(hub.take_told(B, &[]), [A]);
    assert_eq!(hub.whereabouts(A), Whereabouts::Nowhere);
}

#[tokio::test(start_paused = true)]
async fn who_has_kept_its_manager_is_known_by_its_newest_sign_of_life() {
    let node = |n| NodeId(Id(n));
    let (hub, start) = (Hub::new(), Instant::now());
    let (aside, _keep) = mpsc::channel(1);
    let heard = |node, at| Heard { node, at, applied: 0 };
    // It has gone to B since, without a word.
    hub.connect(node(11), aside.clone());
    tokio::time::advance(Duration::from_millis(100)).await;
    let then = Instant::now();
    hub.take_told(B, &[heard(node(11), then), heard(node(12), then), heard(B, then)]);
    tokio::time::advance(Duration::from_millis(600)).await;
    let now = Instant::now();
    hub.take_told(A, &[heard(node(13), now)]);
    hub.connect(node(14), aside);
    // B is silent for longer than it should be: its agents may have lost it, and its own is lost with it.
    assert_eq!(hub.settled(), [(B, then), (node(13), now), (node(14), now)]);
    hub.take_told(B, &[heard(node(11), now)]);
    assert_eq!(hub.settled(), [(node(11), now), (node(13), now), (node(14), now)]);
    assert!(start < then);
}

#[tokio::test(start_paused = true)]
async fn what_this_manager_never_showed_is_drained_once_that_was_looked_at() {
    let (view, task) = running();
    let hub = Hub::new();
    let (aside, _keep) = mpsc::channel(1);
    let a = hub.connect(A, aside);
    hub.refresh(&View::default());
    // It rested while the task ran and was told to stop; another manager's agents may have been told of it.
    let stopping = Task { desired_state: TaskState::Shutdown, ..task };
    let left = push(&view, vec![Change::PutTask(Arc::new(stopping))]);
    let stopping = left.task(TaskId(Id(6))).expect("it is there").clone();
    assert!(!hub.is_drained(&stopping), "nobody has looked at it yet");
    hub.refresh(&left);
    assert!(!hub.is_drained(&stopping), "the agent here has applied no mesh without it");
    hub.heard(A, a.session, a.mesh.borrow().revision);
    assert!(hub.is_drained(&stopping));
    let behind = Heard { node: B, at: Instant::now(), applied: view.revision() };
    hub.take_told(B, &[behind]);
    assert!(!hub.is_drained(&stopping), "another manager's agent is behind");
}

#[tokio::test(start_paused = true)]
async fn a_mesh_comes_under_the_revision_up_to_which_it_is_right_and_its_steps_after_that() {
    let (view, task) = running();
    let hub = Hub::new();
    hub.refresh(&view);
    let spec = Arc::new(ServiceSpec { name: "other".to_owned(), ..ServiceSpec::default() });
    let other = Service { id: ServiceId(Id(9)), spec, ..Service::default() };
    let after = push(&view, vec![Change::PutService(Arc::new(other))]);
    assert!(!hub.refresh(&after), "nothing of the mesh changed");
    let (mesh, checked) = hub.newest();
    assert_eq!((mesh.revision, checked), (view.revision(), after.revision()));
    // An agent may have another manager's mesh of that revision, or one in between.
    let (messages, told) = mesh.news(A, true, None, checked);
    let [Out::Mesh(state)] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((state.revision, state.left_at), (after.revision(), view.revision()));

    let stopping = Task { desired_state: TaskState::Shutdown, ..task };
    let left = push(&after, vec![Change::PutTask(Arc::new(stopping))]);
    assert!(hub.refresh(&left));
    let (mesh, checked) = hub.newest();
    let (messages, _) = mesh.news(A, true, Some(told), checked);
    let [Out::MeshChange(change)] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((change.applies_to, change.results_in), (after.revision(), left.revision()));
    assert_eq!(change.left_at, left.revision());
    assert_eq!(change.endpoints_gone.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn in_a_large_swarm_a_node_hears_of_all_others_with_its_first_task_on_the_ingress_network() {
    let node = |n: u32| {
        let ingress_addr = Some(std::net::Ipv4Addr::from(0x0aff_1000 + n));
        Change::PutNode(Arc::new(Node { id: NodeId(Id(n.into())), ingress_addr, ..Node::default() }))
    };
    let manager = Node { spec: NodeSpec { role: Role::Manager, ..NodeSpec::default() }, ..Node::default() };
    let manager = Node { id: NodeId(Id(1_000)), ingress_addr: Some([10, 255, 0, 9].into()), ..manager };
    let nodes = (1..=300).map(node).chain([Change::PutNode(Arc::new(manager))]);
    let view = push(&View::default(), nodes.collect());
    let hub = Hub::new();
    hub.refresh(&view);
    let news = |takes_few, sent| {
        let (mesh, checked) = hub.newest();
        mesh.news(A, takes_few, sent, checked)
    };
    let n_peers = |messages: &[Out]| match messages {
        [Out::Mesh(state)] => (state.peers.len(), state.few_peers, state.n_nodes),
        other => panic!("{other:?}"),
    };
    let ((messages, few), (old_agents, all)) = (news(true, None), news(false, None));
    assert_eq!(n_peers(&messages), (1, true, 301));
    assert_eq!(n_peers(&old_agents), (300, false, 301));

    let view = push(&view, vec![node(301)]);
    assert!(hub.refresh(&view));
    let (messages, few) = news(true, Some(few));
    assert!(messages.is_empty(), "another worker is no news: {messages:?}");
    let (messages, all) = news(false, Some(all));
    assert!(matches!(messages.as_slice(), [Out::MeshChange(change)] if change.peers.len() == 1));

    let spec = Arc::new(ServiceSpec { name: "web".to_owned(), ..ServiceSpec::default() });
    let service = Service { id: ServiceId(Id(5)), spec, ..Service::default() };
    let view = push(&view, vec![Change::PutService(Arc::new(service))]);
    let mut task = Task::new(TaskId(Id(6)), view.service(ServiceId(Id(5))).expect("just put"), 1);
    task.node_id = Some(A);
    task.ingress_addr = Some([10, 255, 0, 2].into());
    let view = push(&view, vec![Change::PutTask(Arc::new(task))]);
    assert!(hub.refresh(&view));
    let (messages, few) = news(true, Some(few));
    assert_eq!(n_peers(&messages), (301, false, 302));
    assert!(matches!(news(false, Some(all)).0.as_slice(), [Out::MeshChange(_)]));

    // From then on step by step, without a gap.
    assert!(hub.refresh(&push(&view, vec![node(302)])));
    let (changes, _) = news(true, Some(few));
    let [Out::MeshChange(change)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((change.applies_to, change.peers.len()), (view.revision(), 1));
}
