//! The swarm's networks, and those that every node has by itself.

use serde_json::{Value, json};
use skep_api::{
    Timestamp,
    object::{Cluster, Network, ingress as mesh},
};

/// A network of the swarm.
pub(crate) fn network(network: &Network) -> Value {
    let spec = &network.spec;
    let driver = if spec.driver.is_empty() { "overlay" } else { &spec.driver };
    let mut out = common(&spec.name, &network.id.to_string(), network.meta.created_at, "swarm", driver);
    let config: Vec<Value> = network
        .subnets
        .iter()
        .map(|own| {
            let mut config = json!({ "Subnet": own.subnet.to_string(), "Gateway": own.gateway.to_string() });
            if let Some(range) = own.ip_range {
                config["IPRange"] = range.to_string().into();
            }
            config
        })
        .collect();
    out["IPAM"]["Config"] = config.into();
    out["Internal"] = spec.internal.into();
    out["Attachable"] = spec.attachable.into();
    let mut options = spec.options.clone().unwrap_or_default();
    options.insert("com.docker.network.driver.overlay.vxlanid_list".into(), network.vni.to_string());
    out["Options"] = json!(options);
    out["Labels"] = json!(spec.labels.clone().unwrap_or_default());
    out
}

/// The ingress network.
pub(crate) fn ingress(cluster: &Cluster) -> Value {
    let gateway = std::net::Ipv4Addr::from(u32::from(mesh::TASKS_FIRST) - 1);
    let id = cluster.ingress_id().to_string();
    let mut out = common(mesh::NAME, &id, cluster.meta.created_at, "swarm", "overlay");
    out["Ingress"] = json!(true);
    out["IPAM"]["Config"] = json!([{ "Subnet": mesh::SUBNET.to_string(), "Gateway": gateway.to_string() }]);
    out["Options"] = json!({ "com.docker.network.driver.overlay.vxlanid_list": mesh::VNI.to_string() });
    out
}

/// A network that every node has by itself. Docker's have ids of 64 hexadecimal digits; ours come from the
/// names of the network and of the node, so they stay.
pub(crate) fn local_network(name: &str, driver: &str, node: &str) -> Value {
    let mut id: String = name.bytes().chain(node.bytes()).map(|byte| format!("{byte:02x}")).collect();
    id = format!("{id:0<64}");
    id.truncate(64);
    common(name, &id, Timestamp::ZERO, "local", driver)
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

#[cfg(test)]
mod tests {
    use skep_api::{Id, NetworkId, object::Subnet, spec::NetworkSpec};

    use super::*;

    #[test]
    fn a_network_shows_what_it_was_given() {
        let spec: NetworkSpec = serde_json::from_value(json!({
            "Name": "web_default", "Driver": "overlay", "Attachable": true,
            "Labels": { "com.docker.stack.namespace": "web" }, "Options": { "encrypted": "" },
        }))
        .unwrap();
        let subnet = Subnet {
            subnet: "10.0.1.0/24".parse().unwrap(),
            gateway: "10.0.1.1".parse().unwrap(),
            ip_range: Some("10.0.1.128/25".parse().unwrap()),
        };
        let made =
            Network { id: NetworkId(Id(7)), spec, subnets: vec![subnet], vni: 4097, ..Network::default() };
        let out = network(&made);
        assert_eq!(out["Id"], NetworkId(Id(7)).to_string());
        assert_eq!(
            (&out["Scope"], &out["Driver"], &out["Attachable"]),
            (&json!("swarm"), &json!("overlay"), &json!(true))
        );
        assert_eq!(
            out["IPAM"]["Config"],
            json!([{ "Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1", "IPRange": "10.0.1.128/25" }])
        );
        assert_eq!(
            out["Options"],
            json!({ "encrypted": "", "com.docker.network.driver.overlay.vxlanid_list": "4097" })
        );
        assert_eq!(out["Labels"]["com.docker.stack.namespace"], "web");
        let local = local_network("none", "null", "node");
        assert_eq!(local["Id"].as_str().unwrap().len(), 64);
    }
}
