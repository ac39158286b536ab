//! Gives networks their address ranges and VXLAN ids.
//!
//! What is asked for is given as asked, or refused; the rest is the first free part of the swarm's pool.
//! The store guards that no range and no id has two owners.

use std::{collections::BTreeSet, net::Ipv4Addr};

use skep_api::{
    cidr::{Cidr, CidrError},
    object::{Subnet, ingress},
    spec::{IpamConfig, NetworkSpec},
};
use skep_store::View;

/// Prefix length of what is cut from the pool when the swarm does not say (Swarm's).
const SUBNET_SIZE: u8 = 24;
/// A VXLAN id has 24 bits.
const VNI_LAST: u32 = (1 << 24) - 1;

/// An address range cannot be given.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubnetError {
    /// Somebody has it; libnetwork's words, and who.
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {asked} and {other} of network {owner}"
    )]
    Taken {
        /// As asked for.
        asked: Cidr,
        /// What it overlaps with.
        other: Cidr,
        /// Whose that is.
        owner: String,
    },
    /// Nothing of the pool is free.
    #[error(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network; give a subnet"
    )]
    Exhausted,
    /// What was asked for cannot be read.
    #[error(transparent)]
    Unreadable(#[from] CidrError),
}

/// The address ranges of a new network.
///
/// # Errors
/// One that was asked for is taken, or the pool is used up.
pub fn assign_subnets(view: &View, spec: &NetworkSpec) -> Result<Vec<Subnet>, SubnetError> {
    let asked = spec.ipam.as_ref().and_then(|ipam| ipam.config.as_deref()).unwrap_or(&[]);
    let mut given: Vec<Subnet> = Vec::with_capacity(asked.len().max(1));
    for config in asked.iter().filter(|config| !config.subnet.is_empty()) {
        given.push(as_asked(view, config)?);
    }
    for _ in 0..asked.iter().filter(|config| config.subnet.is_empty()).count() {
        let subnet = cut(view, &given)?;
        given.push(subnet);
    }
    if given.is_empty() {
        given.push(cut(view, &given)?);
    }
    Ok(given)
}

/// The first VXLAN id that no network has: Swarm's count from 4096 on, which is the ingress network's.
#[must_use]
pub fn free_vni(view: &View) -> Option<u32> {
    (ingress::VNI + 1..=VNI_LAST).find(|vni| view.vni_owner(*vni).is_none())
}

fn as_asked(view: &View, config: &IpamConfig) -> Result<Subnet, SubnetError> {
    let subnet: Cidr = config.subnet.parse()?;
    if let Some((other, owner)) = taken(view, subnet) {
        return Err(SubnetError::Taken { asked: subnet, other, owner });
    }
    let gateway = config.gateway.parse().unwrap_or_else(|_| first_address(subnet));
    let ip_range = if config.ip_range.is_empty() { None } else { Some(config.ip_range.parse()?) };
    Ok(Subnet { subnet, gateway, ip_range })
}

/// Who has a part of `subnet`, by name.
fn taken(view: &View, subnet: Cidr) -> Option<(Cidr, String)> {
    if ingress::SUBNET.overlaps(subnet) {
        return Some((ingress::SUBNET, ingress::NAME.to_owned()));
    }
    let (other, owner) = view.overlapping_subnet(subnet)?;
    Some((other, view.network(owner).map_or_else(|| owner.to_string(), |network| network.spec.name.clone())))
}

/// The first free part of the pool. The very first part is left, as Docker leaves it to its ingress network;
/// so are those that a member's own address lies in: its tasks could not reach that member any more.
fn cut(view: &View, own: &[Subnet]) -> Result<Subnet, SubnetError> {
    let cluster = view.cluster();
    let pools = cluster.map_or(&[][..], |cluster| cluster.default_addr_pool.as_slice());
    let size = cluster.and_then(|cluster| u8::try_from(cluster.subnet_size).ok()).filter(|size| *size > 0);
    let size = size.unwrap_or(SUBNET_SIZE);
    let members = member_addresses(view);
    let is_free = |part: &Cidr| {
        taken(view, *part).is_none()
            && !own.iter().any(|own| own.subnet.overlaps(*part))
            && members.range(part.base()..=part.last()).next().is_none()
    };
    for (at, pool) in pools.iter().enumerate() {
        let pool: Cidr = pool.parse()?;
        let skipped = usize::from(at == 0 && pool.prefix() < size);
        if let Some(subnet) = pool.parts(size).skip(skipped).find(is_free) {
            return Ok(Subnet { subnet, gateway: first_address(subnet), ip_range: None });
        }
    }
    Err(SubnetError::Exhausted)
}

fn first_address(subnet: Cidr) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.base().to_bits() | 1)
}

fn member_addresses(view: &View) -> BTreeSet<Ipv4Addr> {
    let host = |text: &str| text.rsplit_once(':').map_or(text, |(host, _)| host).parse().ok();
    view.nodes()
        .flat_map(|node| [&node.status.addr, &node.data_path_addr, &node.advertise_addr])
        .filter_map(|text| host(text))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_api::{
        Id, NetworkId, NodeId, Timestamp,
        object::{Cluster, Network, Node},
        spec::Ipam,
    };
    use skep_store::{Change, Draft};

    use super::*;

    fn draft(pool: &str, size: u32) -> Draft {
        let mut draft = Draft::new(View::default(), Timestamp(1));
        let cluster =
            Cluster { default_addr_pool: vec![pool.into()], subnet_size: size, ..Cluster::default() };
        draft.push(Change::PutCluster(Arc::new(cluster))).unwrap();
        draft
    }

    fn asking(name: u128, subnets: &[&str]) -> NetworkSpec {
        let config = |subnet: &&str| IpamConfig { subnet: (*subnet).into(), ..IpamConfig::default() };
        let ipam = Ipam { config: Some(subnets.iter().map(config).collect()), ..Ipam::default() };
        NetworkSpec { name: format!("n{name}"), ipam: Some(ipam), ..NetworkSpec::default() }
    }

    /// Makes a network as a manager does; gives its ranges.
    fn make(draft: &mut Draft, id: u128, subnets: &[&str]) -> Result<Vec<String>, SubnetError> {
        let spec = asking(id, subnets);
        let subnets = assign_subnets(draft, &spec)?;
        let shown = subnets.iter().map(|own| format!("{} {}", own.subnet, own.gateway)).collect();
        let vni = free_vni(draft).unwrap();
        let network = Network { id: NetworkId(Id(id)), spec, subnets, vni, ..Network::default() };
        draft.push(Change::PutNetwork(Arc::new(network))).unwrap();
        Ok(shown)
    }

    #[test]
    fn ranges_come_from_the_pool_in_order() {
        let mut draft = draft("10.0.0.0/8", 24);
        assert_eq!(make(&mut draft, 1, &[]).unwrap(), ["10.0.1.0/24 10.0.1.1"]);
        assert_eq!(make(&mut draft, 2, &["10.0.2.0/23"]).unwrap(), ["10.0.2.0/23 10.0.2.1"]);
        assert_eq!(make(&mut draft, 3, &[""]).unwrap(), ["10.0.4.0/24 10.0.4.1"]);
        assert_eq!(
            make(&mut draft, 4, &["", "10.0.5.0/24"]).unwrap(),
            ["10.0.5.0/24 10.0.5.1", "10.0.6.0/24 10.0.6.1"]
        );
        draft.push(Change::DeleteNetwork(NetworkId(Id(2)))).unwrap();
        assert_eq!(make(&mut draft, 5, &[]).unwrap(), ["10.0.2.0/24 10.0.2.1"]);
        let vnis: Vec<u32> = draft.networks().map(|network| network.vni).collect();
        assert_eq!(vnis, [4097, 4099, 4100, 4098]);
    }

    #[test]
    fn what_is_taken_is_refused_with_its_owner() {
        let mut draft = draft("10.0.0.0/8", 24);
        make(&mut draft, 1, &[]).unwrap();
        for (asked, owner) in [
            ("10.0.0.0/16", "n1"),
            ("10.0.1.128/25", "n1"),
            ("10.255.9.0/24", "ingress"),
            ("0.0.0.0/1", "ingress"),
        ] {
            let words = make(&mut draft, 2, &[asked]).unwrap_err().to_string();
            assert!(words.contains("Pool overlaps with other one on this address space"), "{words}");
            assert!(words.ends_with(&format!("of network {owner}")), "{words}");
        }
    }

    #[test]
    fn a_pool_ends_and_members_keep_their_addresses() {
        let mut full = draft("10.254.0.0/15", 16);
        // The first part is left, the second is the ingress network's.
        assert_eq!(make(&mut full, 1, &[]), Err(SubnetError::Exhausted));
        let mut draft = draft("192.168.0.0/22", 24);
        let mut node = Node { id: NodeId(Id(1)), ..Node::default() };
        node.status.addr = "192.168.1.7".into();
        node.data_path_addr = "192.168.2.7:4789".into();
        draft.push(Change::PutNode(Arc::new(node))).unwrap();
        assert_eq!(make(&mut draft, 1, &[]).unwrap(), ["192.168.3.0/24 192.168.3.1"]);
        assert_eq!(make(&mut draft, 2, &[]), Err(SubnetError::Exhausted));
    }

    proptest::proptest! {
        /// Whatever is asked for, taken back and asked again: no two ranges overlap, no id is given twice.
        #[test]
        fn never_two_owners(steps in proptest::collection::vec((0..12_u128, 0..40_u8, 14..29_u8, 0..3_u8), 1..60)) {
            let mut draft = draft("10.0.0.0/12", 20);
            for (id, net, prefix, kind) in steps {
                let id = NetworkId(Id(id));
                if draft.network(id).is_some() {
                    draft.push(Change::DeleteNetwork(id)).unwrap();
                    continue;
                }
                let asked = Cidr::new(Ipv4Addr::new(10, net / 8, net << 5, net << 6), prefix).to_string();
                let subnets: &[&str] = match kind { 0 => &[], 1 => &[""], _ => &[&asked] };
                make(&mut draft, id.0.0, subnets).ok();
                let all: Vec<Cidr> = draft.networks().flat_map(|n| &n.subnets).map(|s| s.subnet).collect();
                for (at, one) in all.iter().enumerate() {
                    proptest::prop_assert!(!one.overlaps(ingress::SUBNET));
                    proptest::prop_assert!(all[at + 1..].iter().all(|other| !one.overlaps(*other)), "{all:?}");
                }
                let vnis: BTreeSet<u32> = draft.networks().map(|n| n.vni).collect();
                proptest::prop_assert_eq!(vnis.len(), draft.networks().count());
            }
        }
    }
}
