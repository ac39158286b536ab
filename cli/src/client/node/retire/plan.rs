//! Which steps take a node out, whether they would hurt, and what is left to wait for: pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::client::output::text;

/// One step; done in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Demote,
    Drain,
    Wait,
    Remove,
}

impl Step {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Demote => "demote",
            Self::Drain => "drain",
            Self::Wait => "wait",
            Self::Remove => "remove",
        }
    }

    pub(super) fn words(self, node: &str) -> String {
        match self {
            Self::Demote => format!("demote {node} to a worker"),
            Self::Drain => format!("drain {node}: its tasks move"),
            Self::Wait => "wait until its tasks run elsewhere".to_owned(),
            Self::Remove => format!("remove {node} from the swarm"),
        }
    }
}

/// What will be done.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What the user should know beforehand.
    pub(super) notes: Vec<String>,
    /// What runs on it cannot be seen, so it is not waited for.
    pub(super) is_down: bool,
}

impl Plan {
    /// The steps for `node`, asked of the node `own`.
    ///
    /// # Errors
    /// Why the first step would hurt already, and what to do.
    pub(super) fn make(node: &Value, nodes: &[Value], own: &str) -> Result<Self, String> {
        let is_down = text(node, "/Status/State") == "down";
        let mut plan = Self { steps: Vec::new(), notes: Vec::new(), is_down };
        let (id, name) = (text(node, "/ID"), text(node, "/Description/Hostname"));
        if id == own {
            return Err(format!(
                "{name} is the node that answers: it cannot remove itself; ask another manager (-H)"
            ));
        }
        if !nodes.iter().any(|other| text(other, "/ID") != id && takes_tasks(other)) {
            return Err(format!(
                "{name} is the only node that takes tasks; add or activate another one first"
            ));
        }
        if is_manager(node) {
            plan.notes.extend(check_managers(nodes, id, name)?);
            plan.steps.push(Step::Demote);
        }
        if is_down {
            // Its tasks are replaced already, without anybody to wait for on it.
            plan.notes.push(format!("{name} is down: what may still run on it cannot be seen from here"));
        }
        plan.steps.extend([Step::Drain, Step::Wait, Step::Remove]);
        Ok(plan)
    }
}

fn is_manager(node: &Value) -> bool {
    text(node, "/Spec/Role") == "manager" || node["ManagerStatus"].is_object()
}

fn takes_tasks(node: &Value) -> bool {
    text(node, "/Status/State") == "ready" && text(node, "/Spec/Availability") == "active"
}

/// Swarm's rule: enough of those that stay must answer (`SK:manager/state/raft/raft.go:CanRemoveMember`).
fn check_managers(nodes: &[Value], id: &str, name: &str) -> Result<Vec<String>, String> {
    let others: Vec<&Value> =
        nodes.iter().filter(|other| text(other, "/ID") != id && is_manager(other)).collect();
    if others.is_empty() {
        return Err(format!("{name} is the last manager; promote another node first"));
    }
    let reachable =
        others.iter().filter(|node| text(node, "/ManagerStatus/Reachability") == "reachable").count();
    let needed = others.len() / 2 + 1;
    if reachable < needed {
        return Err(format!(
            "without {name}, {reachable} of {} managers would be reachable and {needed} are needed: the swarm would \
             lose its quorum; bring the others back, or remove those that are lost, first",
            others.len()
        ));
    }
    Ok(match others.len() {
        1 => vec!["one manager will be left: the swarm will not survive its loss".to_owned()],
        2 => vec![
            "two managers will be left: the swarm will not survive the loss of either; promote another node"
                .to_owned(),
        ],
        _ => Vec::new(),
    })
}

/// Tasks as they are now, seen from the node that is to go; counts are by service.
#[derive(Default, Debug)]
pub(super) struct Look {
    /// Tasks wanted to run that run.
    running: BTreeMap<String, u64>,
    /// The same, on other nodes.
    elsewhere: BTreeMap<String, u64>,
    /// Tasks that have not ended on the node.
    here: BTreeMap<String, u64>,
    /// Tasks for which there is no node, and what the scheduler says.
    unplaced: BTreeMap<String, (u64, String)>,
    /// Replicas that each service wants now.
    pub(super) replicas: BTreeMap<String, u64>,
    pub(super) names: BTreeMap<String, String>,
}

const ENDED: [&str; 6] = ["complete", "shutdown", "failed", "rejected", "remove", "orphaned"];

impl Look {
    pub(super) fn of(tasks: &[Value], node: &str) -> Self {
        let mut look = Self::default();
        for task in tasks {
            let service = text(task, "/ServiceID").to_owned();
            let (state, desired) = (text(task, "/Status/State"), text(task, "/DesiredState"));
            let is_here = text(task, "/NodeID") == node;
            let runs = state == "running" && desired == "running";
            let counts = [
                (&mut look.running, runs),
                (&mut look.elsewhere, runs && !is_here),
                (&mut look.here, is_here && !ENDED.contains(&state)),
            ];
            for (count, is_one) in counts {
                if is_one {
                    *count.entry(service.clone()).or_default() += 1;
                }
            }
            if state == "pending" && desired == "running" && text(task, "/NodeID").is_empty() {
                let why = [text(task, "/Status/Err"), text(task, "/Status/Message")];
                if let Some(why) = why.into_iter().find(|why| why.contains("no suitable node")) {
                    let entry = look.unplaced.entry(service).or_default();
                    *entry = (entry.0 + 1, why.to_owned());
                }
            }
        }
        look
    }

    /// What has to run elsewhere before the node may go: of each service with something here, as much as runs
    /// now. If the node is no longer active, a task without a node may be one that it had.
    pub(super) fn before(&self, is_active: bool) -> BTreeMap<String, u64> {
        let count = |counts: &BTreeMap<String, u64>, service: &str| counts.get(service).copied().unwrap_or(0);
        let mut before: BTreeMap<String, u64> =
            self.here.keys().map(|service| (service.clone(), count(&self.running, service))).collect();
        if !is_active {
            for (service, (n_unplaced, _)) in &self.unplaced {
                before.insert(service.clone(), count(&self.running, service) + n_unplaced);
            }
        }
        before
    }
}

/// What still keeps the node.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Left {
    /// Tasks that have not ended on it.
    pub(super) here: u64,
    /// `name 2/3` for services with less running elsewhere than they had.
    pub(super) short: Vec<String>,
    /// Why a task of such a service fits nowhere.
    pub(super) explanation: Option<String>,
}

impl Left {
    /// `before`: tasks of each service that have to run elsewhere. Of a node that is down nothing is heard.
    pub(super) fn of(before: &BTreeMap<String, u64>, now: &Look, is_down: bool) -> Self {
        let here = if is_down { 0 } else { now.here.values().sum() };
        let mut left = Self { here, ..Self::default() };
        for (service, had) in before {
            let wanted = (*had).min(now.replicas.get(service).copied().unwrap_or(0));
            let runs = now.elsewhere.get(service).copied().unwrap_or(0);
            if runs >= wanted {
                continue;
            }
            let name = now.names.get(service).map_or(service.as_str(), String::as_str);
            left.short.push(format!("{name} {runs}/{wanted}"));
            if let Some((_, why)) = now.unplaced.get(service) {
                left.explanation.get_or_insert_with(|| format!("{name}: {why}"));
            }
        }
        left
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.here == 0 && self.short.is_empty()
    }

    pub(super) fn words(&self, node: &str) -> String {
        let mut words = Vec::new();
        if self.here > 0 {
            let noun = if self.here == 1 { "task" } else { "tasks" };
            words.push(format!("{} {noun} still on {node}", self.here));
        }
        if !self.short.is_empty() {
            words.push(format!("running elsewhere: {}", self.short.join(", ")));
        }
        words.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(id: &str, role: &str, state: &str, reachability: &str) -> Value {
        let mut node = json!({
            "ID": id, "Spec": { "Role": role, "Availability": "active" }, "Status": { "State": state },
            "Description": { "Hostname": format!("host-{id}") },
        });
        if role == "manager" {
            node["ManagerStatus"] = json!({ "Reachability": reachability });
        }
        node
    }

    fn managers(reachable: &[bool]) -> Vec<Value> {
        let ids = ["a", "b", "c", "d", "e"];
        let pairs = ids.iter().zip(reachable);
        pairs
            .map(|(id, on)| node(id, "manager", "ready", if *on { "reachable" } else { "unreachable" }))
            .collect()
    }

    #[test]
    fn a_worker_is_drained_and_removed() {
        let nodes = [node("a", "manager", "ready", "reachable"), node("b", "worker", "ready", "")];
        let plan = Plan::make(&nodes[1], &nodes, "a").unwrap();
        let steps = vec![Step::Drain, Step::Wait, Step::Remove];
        assert_eq!(plan, Plan { steps, notes: Vec::new(), is_down: false });
        let down = node("c", "worker", "down", "");
        let plan = Plan::make(&down, &[nodes[0].clone(), down.clone()], "a").unwrap();
        assert!(plan.notes[0].starts_with("host-c is down"), "{plan:?}");
    }

    #[test]
    fn a_manager_goes_when_the_others_are_enough() {
        let nodes = managers(&[true, true, true]);
        let plan = Plan::make(&nodes[2], &nodes, "a").unwrap();
        assert_eq!(plan.steps[0], Step::Demote);
        assert!(plan.notes[0].starts_with("two managers will be left"), "{plan:?}");
        let nodes = managers(&[true, true, true, true]);
        assert_eq!(Plan::make(&nodes[3], &nodes, "a").unwrap().notes, Vec::<String>::new());
    }

    #[test]
    fn a_step_that_would_hurt_is_refused() {
        let check = |node: &Value, nodes: &[Value], own: &str, expect: &str| {
            let error = Plan::make(node, nodes, own).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        let nodes = managers(&[true, false, true]);
        check(&nodes[2], &nodes, "a", "1 of 2 managers would be reachable and 2 are needed");
        check(&nodes[0], &nodes, "a", "ask another manager");
        let nodes = [node("a", "manager", "ready", "reachable"), node("b", "worker", "ready", "")];
        check(&nodes[0], &nodes, "b", "host-a is the last manager");
        check(&nodes[0], &nodes[..1], "b", "the only node that takes tasks");
    }

    fn task(service: &str, node: &str, state: &str, desired: &str, err: &str) -> Value {
        json!({ "ServiceID": service, "NodeID": node, "DesiredState": desired, "Status": { "State": state, "Err": err } })
    }

    #[test]
    fn what_is_left_is_counted_and_explained() {
        let before = BTreeMap::from([("web".to_owned(), 3), ("db".to_owned(), 1), ("gone".to_owned(), 2)]);
        let none = "no suitable node (scheduling constraints not satisfied on 1 node)";
        let tasks = [
            task("web", "x", "running", "shutdown", ""),
            task("web", "y", "running", "running", ""),
            task("web", "y", "starting", "running", ""),
            task("db", "x", "shutdown", "shutdown", ""),
            task("db", "", "pending", "running", none),
        ];
        let mut now = Look::of(&tasks, "x");
        now.replicas = BTreeMap::from([("web".to_owned(), 2), ("db".to_owned(), 1)]);
        let left = Left::of(&before, &now, false);
        assert_eq!(left.here, 1);
        assert_eq!(left.short, ["db 0/1", "web 1/2"]);
        assert_eq!(left.explanation.as_deref(), Some(format!("db: {none}").as_str()));
        assert_eq!(left.words("x"), "1 task still on x; running elsewhere: db 0/1, web 1/2");
        let done = [task("web", "y", "running", "running", ""), task("web", "y", "running", "running", "")];
        let mut now = Look::of(&done, "x");
        now.replicas = BTreeMap::from([("web".to_owned(), 2)]);
        assert!(Left::of(&before, &now, false).is_nothing());
        let here = Look::of(&tasks, "x");
        assert_eq!(here.before(true), BTreeMap::from([("web".to_owned(), 1)]), "what has something here");
        let again = BTreeMap::from([("web".to_owned(), 1), ("db".to_owned(), 1)]);
        assert_eq!(here.before(false), again, "asked again: what it had may wait for a place");
        assert_eq!(Left::of(&before, &here, true).here, 0, "nothing is heard of a node that is down");
    }
}
