//! The networks that there are: the ingress network of the swarm, and the bridge of the node.

use serde_json::{Value, json};
use skep_api::{
    Id, Timestamp,
    object::{Cluster, ingress as pool},
};

/// Told apart from the swarm's own id, and the same on every manager.
const INGRESS_ID_MARK: u128 = 0x696e_6772_6573_732d_6e65_7477_6f72_6b00;

/// The ingress network's id.
pub(crate) fn ingress_id(cluster: &Cluster) -> String {
    Id(cluster.id.0.0 ^ INGRESS_ID_MARK).to_string()
}

/// The ingress network.
pub(crate) fn ingress(cluster: &Cluster) -> Value {
    let pool_first = u32::from(pool::TASKS_FIRST);
    let base = std::net::Ipv4Addr::from(pool_first & (u32::MAX << (32 - u32::from(pool::PREFIX))));
    let gateway = std::net::Ipv4Addr::from(pool_first - 1);
    let mut out = common("ingress", &ingress_id(cluster), cluster.meta.created_at, "swarm", "overlay");
    out["Ingress"] = json!(true);
    out["IPAM"]["Config"] =
        json!([{ "Subnet": format!("{base}/{}", pool::PREFIX), "Gateway": gateway.to_string() }]);
    out
}

/// The node's own bridge.
pub(crate) fn bridge(id: &str) -> Value {
    common("bridge", id, Timestamp::ZERO, "local", "bridge")
}

fn common(name: &str, id: &str, created: Timestamp, scope: &str, driver: &str) -> Value {
    json!({
        "Name": name,
        "Id": id,
        "Created": created.to_string(),
        "Scope": scope,
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": [] },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": {},
    })
}
