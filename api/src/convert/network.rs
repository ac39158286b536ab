//! Networks.

use super::{Malformed, from_json, json, malformed};
use crate::{
    NetworkId,
    object::{Network, Subnet},
    wire,
};

impl From<&Subnet> for wire::Subnet {
    fn from(subnet: &Subnet) -> Self {
        Self {
            subnet: subnet.subnet.to_string(),
            gateway: subnet.gateway.to_string(),
            ip_range: subnet.ip_range.map(|range| range.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::Subnet> for Subnet {
    type Error = Malformed;

    fn try_from(subnet: wire::Subnet) -> Result<Self, Malformed> {
        let cidr = |text: &str| text.parse().map_err(|e| malformed("network", e));
        Ok(Self {
            subnet: cidr(&subnet.subnet)?,
            gateway: subnet.gateway.parse().map_err(|e| malformed("network", e))?,
            ip_range: if subnet.ip_range.is_empty() { None } else { Some(cidr(&subnet.ip_range)?) },
        })
    }
}

impl From<&Network> for wire::Network {
    fn from(network: &Network) -> Self {
        Self {
            id: network.id.to_bytes(),
            meta: Some(network.meta.into()),
            spec: json(&network.spec),
            subnets: network.subnets.iter().map(Into::into).collect(),
            vni: network.vni,
        }
    }
}

impl TryFrom<wire::Network> for Network {
    type Error = Malformed;

    fn try_from(network: wire::Network) -> Result<Self, Malformed> {
        Ok(Self {
            id: NetworkId::from_bytes(&network.id).ok_or_else(|| malformed("network", "id"))?,
            meta: network.meta.unwrap_or_default().into(),
            spec: from_json("network", &network.spec)?,
            subnets: network.subnets.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            vni: network.vni,
        })
    }
}
