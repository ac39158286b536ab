//! What users change while faults strike: updates, scales, drains, roles, the root of certificates.

use serde_json::json;
use skep_e2e::Cluster;

use super::{Dice, truth};

const N_MANAGERS: usize = 3;

/// Makes one change. It may be refused while there is no leader; then it is not made.
pub(super) fn make(kind: &str, name: &str, cluster: &Cluster, dice: &mut Dice) {
    match kind {
        "update" => drop(truth::update(cluster, truth::WEB, |spec| {
            spec["TaskTemplate"]["ForceUpdate"] =
                json!(spec["TaskTemplate"]["ForceUpdate"].as_u64().unwrap_or_default() + 1);
        })),
        "scale" => {
            let replicas = *dice.pick(&[1, 3, 6]);
            drop(truth::update(cluster, truth::SIDE, |spec| {
                spec["Mode"]["Replicated"]["Replicas"] = json!(replicas);
            }));
        }
        "drain" => drop(truth::change_node(cluster, name, |spec| spec["Availability"] = json!("drain"))),
        "roles" => swap_roles(name, cluster, dice),
        "rotate root" => {
            let by = cluster.nodes().iter().find(|n| n.name == name).unwrap_or(cluster.manager());
            let _ = cluster.docker_on(by, &["swarm", "ca", "--rotate", "--detach", "--quiet"]);
        }
        _ => {}
    }
}

/// Makes a worker of a manager and the other way round.
fn swap_roles(name: &str, cluster: &Cluster, dice: &mut Dice) {
    let Some(listed) = truth::nodes(cluster) else { return };
    let of = |role: &str| -> Vec<String> {
        let some = listed.iter().filter(|n| n["Spec"]["Role"] == role);
        some.filter_map(|n| n["Description"]["Hostname"].as_str().map(str::to_owned)).collect()
    };
    let (managers, workers) = (of("manager"), of("worker"));
    if managers.len() <= N_MANAGERS && !workers.is_empty() {
        let up = dice.pick(&workers).clone();
        drop(truth::change_node(cluster, &up, |spec| spec["Role"] = json!("manager")));
    } else if managers.iter().any(|m| m == name) {
        drop(truth::change_node(cluster, name, |spec| spec["Role"] = json!("worker")));
    }
}
