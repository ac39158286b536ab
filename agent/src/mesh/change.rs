//! A mesh, and what is new in it. Pure.

use skep_api::wire;

/// The change is of another mesh than this node has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a change of the mesh of revision {applies_to} came to a node that has {has}")]
pub(crate) struct Gap {
    applies_to: u64,
    has: u64,
}

/// Makes of a mesh the next one.
///
/// # Errors
/// [`Gap`]; the mesh is as it was.
pub(crate) fn take(state: &mut wire::MeshState, change: wire::MeshChange) -> Result<(), Gap> {
    if state.revision != change.applies_to {
        return Err(Gap { applies_to: change.applies_to, has: state.revision });
    }
    state.revision = change.results_in;
    state.ingress_addr = change.ingress_addr;
    state.data_path_port = change.data_path_port;
    state.left_at = change.left_at;
    state.n_nodes = change.n_nodes;
    let gone: Vec<&[u8]> = change.peers_gone.iter().map(Vec::as_slice).collect();
    merge(&mut state.peers, &gone, change.peers, |peer| &peer.node_id);
    let gone: Vec<&u32> = change.remotes_gone.iter().collect();
    merge(&mut state.remotes, &gone, change.remotes, |remote| &remote.addr);
    state.ports.retain(|port| change.ports_gone.iter().all(|gone| key(gone) != key(port)));
    for gone in change.endpoints_gone {
        if let Ok(at) = state.ports.binary_search_by(|port| key(port).cmp(&key(&gone))) {
            let is_gone = |endpoint: &u32| gone.endpoints.binary_search(endpoint).is_ok();
            state.ports[at].endpoints.retain(|endpoint| !is_gone(endpoint));
        }
    }
    for new in change.ports {
        match state.ports.binary_search_by(|port| key(port).cmp(&key(&new))) {
            Ok(at) => {
                let endpoints = &mut state.ports[at].endpoints;
                endpoints.extend(new.endpoints);
                endpoints.sort_unstable();
                endpoints.dedup();
            }
            Err(at) => state.ports.insert(at, new),
        }
    }
    Ok(())
}

fn key(port: &wire::MeshPort) -> (&str, u32, u32) {
    (&port.protocol, port.published, port.target)
}

/// New ones take the place of those with the same key; all stay in the order of the keys. What lies between is looked
/// at no more than to be moved: each agent of a large swarm does this for each step.
fn merge<T, K: Ord + ?Sized>(sorted: &mut Vec<T>, gone: &[&K], mut new: Vec<T>, key: fn(&T) -> &K) {
    if !gone.is_empty() {
        let mut gone = gone.to_vec();
        gone.sort_unstable();
        sorted.retain(|one| gone.binary_search(&key(one)).is_err());
    }
    new.sort_by(|one, other| key(one).cmp(key(other)));
    let mut out = Vec::with_capacity(sorted.len() + new.len());
    let mut rest = std::mem::take(sorted).into_iter();
    for one in new {
        let n_before = rest.as_slice().partition_point(|old| key(old) < key(&one));
        out.extend(rest.by_ref().take(n_before));
        if rest.as_slice().first().is_some_and(|old| key(old) == key(&one)) {
            rest.next();
        }
        out.push(one);
    }
    out.extend(rest);
    *sorted = out;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: u8, place: &str) -> wire::MeshPeer {
        wire::MeshPeer { node_id: vec![id], data_path_addr: place.to_owned(), ingress_addr: u32::from(id) }
    }

    fn remote(addr: u32, place: &str) -> wire::MeshRemote {
        wire::MeshRemote { addr, data_path_addr: place.to_owned() }
    }

    fn port(published: u32, endpoints: &[u32]) -> wire::MeshPort {
        wire::MeshPort { protocol: "tcp".to_owned(), published, target: 80, endpoints: endpoints.to_vec() }
    }

    fn mesh() -> wire::MeshState {
        wire::MeshState {
            revision: 7,
            ingress_addr: 1,
            ingress_prefix: 16,
            peers: vec![peer(2, "a"), peer(4, "b")],
            remotes: vec![remote(12, "a"), remote(14, "b")],
            ports: vec![port(80, &[12, 14]), port(90, &[])],
            data_path_port: 4789,
            left_at: 5,
            few_peers: false,
            n_nodes: 3,
        }
    }

    #[test]
    fn what_is_new_goes_to_its_place_and_what_is_gone_is_no_more() {
        let mut state = mesh();
        let change = wire::MeshChange {
            applies_to: 7,
            results_in: 9,
            ingress_addr: 1,
            data_path_port: 4789,
            left_at: 9,
            n_nodes: 4,
            peers: vec![peer(3, "c"), peer(4, "d")],
            peers_gone: vec![vec![2]],
            remotes: vec![remote(13, "c"), remote(14, "d")],
            remotes_gone: vec![12],
            ports: vec![port(80, &[13]), port(85, &[])],
            endpoints_gone: vec![port(80, &[12])],
            ports_gone: vec![port(90, &[])],
        };
        take(&mut state, change).unwrap();
        let expected = wire::MeshState {
            revision: 9,
            peers: vec![peer(3, "c"), peer(4, "d")],
            remotes: vec![remote(13, "c"), remote(14, "d")],
            ports: vec![port(80, &[13, 14]), port(85, &[])],
            left_at: 9,
            n_nodes: 4,
            ..mesh()
        };
        assert_eq!(state, expected);
    }

    #[test]
    fn a_change_of_another_mesh_is_refused() {
        let mut state = mesh();
        let change = wire::MeshChange { applies_to: 8, results_in: 9, ..wire::MeshChange::default() };
        assert_eq!(take(&mut state, change), Err(Gap { applies_to: 8, has: 7 }));
        assert_eq!(state, mesh());
    }
}
