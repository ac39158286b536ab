//! Which tasks answer at a published port, while an update changes the ports.

use std::sync::Arc;

use skep_api::{
    Id, ServiceId, Timestamp,
    object::TaskStatus,
    spec::{PortConfig, ServiceSpec},
};
use skep_store::{Change, Draft};

use super::*;

const NODE: NodeId = NodeId(Id(1));

fn port(published_port: u16, target_port: u16) -> PortConfig {
    let publish_mode = "ingress".to_owned();
    PortConfig { published_port, target_port, publish_mode, ..PortConfig::default() }
}

fn service(n: u128, ports: Vec<PortConfig>) -> Service {
    let spec = ServiceSpec { name: format!("s{n}"), ..ServiceSpec::default() };
    Service { id: ServiceId(Id(n)), spec: Arc::new(spec), ports: ports.into(), ..Service::default() }
}

/// Services one and two, each with a task that runs and has these ports; by port, who answers.
fn who_answers(services: [Vec<PortConfig>; 2], tasks: [Vec<PortConfig>; 2]) -> BTreeMap<(u16, u16), Vec<u8>> {
    let mut draft = Draft::new(View::default(), Timestamp(1));
    let mut node = Node { id: NODE, ..Node::default() };
    node.status.state = NodeState::Ready;
    draft.push(Change::PutNode(Arc::new(node))).unwrap();
    for (n, (of_service, of_task)) in (1..).zip(services.into_iter().zip(tasks)) {
        let service = service(n, of_service);
        draft.push(Change::PutService(Arc::new(service.clone()))).unwrap();
        let mut task = Task::new(TaskId(Id(n)), draft.service(service.id).unwrap(), 1);
        task.node_id = Some(NODE);
        task.ports = of_task.into();
        task.ingress_addr = Some(Ipv4Addr::new(10, 255, 0, u8::try_from(n).unwrap()));
        let status = TaskStatus { state: TaskState::Running, ..TaskStatus::default() };
        let id = task.id;
        draft.push(Change::PutTask(Arc::new(task))).unwrap();
        draft.push(Change::TaskStatus(id, status)).unwrap();
    }
    let answer = |endpoints: Vec<Ipv4Addr>| endpoints.iter().map(|address| address.octets()[3]).collect();
    Mesh::of(&draft)
        .ports
        .into_iter()
        .map(|((_, published, target), e)| ((published, target), answer(e)))
        .collect()
}

#[test]
fn a_port_that_a_service_gave_up_is_not_answered_by_its_old_tasks() {
    // The first had 8001 and is updated to 8003; the second has 8001 now. Where the target is the same, the old
    // task answers at the new port.
    let services = [vec![port(8003, 80)], vec![port(8001, 80)]];
    let answers = who_answers(services.clone(), [vec![port(8001, 80)], vec![port(8001, 80)]]);
    assert_eq!(answers, BTreeMap::from([((8001, 80), vec![2]), ((8003, 80), vec![1])]));
    let answers = who_answers(services, [vec![port(8001, 90)], vec![port(8001, 80)]]);
    assert_eq!(answers, BTreeMap::from([((8001, 80), vec![2]), ((8003, 80), vec![])]));
}

#[test]
fn a_task_of_an_older_spec_serves_its_own_target() {
    let answers = who_answers([vec![port(8001, 81)], vec![]], [vec![port(8001, 80)], vec![port(8001, 80)]]);
    assert_eq!(answers, BTreeMap::from([((8001, 80), vec![1]), ((8001, 81), vec![])]));
}
