//! Writes on networks, and the networks of services.
//!
//! A network has its address range with its creation: what the view shows free is asked for, the store
//! guards it, and a range that somebody else was given meanwhile is chosen anew.

use std::{collections::BTreeSet, sync::Arc};

use skep_api::{
    ApiError, ErrorKind, NetworkId,
    id::IdSource,
    object::{Network, ingress},
    spec::{NetworkSpec, ServiceSpec},
    validate,
};
use skep_orchestrator::{assign_subnets, free_vni};
use skep_store::{Change, Guard, GuardKind, View};

use super::{Control, failed_precondition, invalid_argument};
use crate::SystemIds;

/// How often a range or a VXLAN id that was given to somebody else meanwhile is chosen anew.
const CHOICES_MAX: u32 = 16;

/// A network was created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatedNetwork {
    /// Its id.
    pub id: NetworkId,
    /// What the user should know; empty for nothing.
    pub warning: String,
}

impl Control {
    /// Creates a network, with its addresses.
    ///
    /// # Errors
    /// The spec is wrong or asks for what is not honoured; the name or a subnet is taken; the pool is used
    /// up; no leader.
    pub async fn create_network(&self, mut spec: NetworkSpec) -> Result<CreatedNetwork, ApiError> {
        validate::network(&spec)?;
        "overlay".clone_into(&mut spec.driver);
        let id = NetworkId(SystemIds::default().next_id());
        for _ in 0..CHOICES_MAX {
            let view = self.view().await?;
            if spec.name == ingress::NAME || view.network_by_name(&spec.name).is_some() {
                let words = format!("network with name {} already exists", spec.name);
                return Err(ApiError::new(ErrorKind::AlreadyExists, words));
            }
            let network = addressed(&view, id, &spec)?;
            let guard = Guard { kind: GuardKind::Network, id: id.0, version: 0 };
            match self.write(vec![guard], vec![Change::PutNetwork(Arc::new(network))]).await {
                // Only a taken range or VXLAN id is refused so.
                Err(error) if error.kind == ErrorKind::FailedPrecondition => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(CreatedNetwork { id, warning: missing([&spec]).unwrap_or_default() }),
            }
        }
        Err(ApiError::new(
            ErrorKind::ResourceExhausted,
            "others were given each address range that was tried; try again",
        ))
    }

    /// Removes a network that nobody uses.
    ///
    /// # Errors
    /// No such network; a service or a task that is to stay is on it, with Swarm's words; no leader.
    pub async fn remove_network(&self, id: NetworkId) -> Result<(), ApiError> {
        let view = self.view().await?;
        if view.network(id).is_none() {
            return Err(ApiError::not_found(format!("network {id} not found")));
        }
        // A task of an older spec. What is left of a removed service is about to stop.
        let user = view.services().flat_map(|service| view.tasks_of_service(service.id)).find(|task| {
            task.is_runnable()
                && task.spec.network_ids().any(|own| own == id)
                && !view.services_on_network(id).any(|service| service.id == task.service_id)
        });
        if let Some(task) = user {
            return Err(failed_precondition(&format!("network {id} is in use by task {}", task.id)));
        }
        self.write(Vec::new(), vec![Change::DeleteNetwork(id)]).await
    }
}

fn addressed(view: &View, id: NetworkId, spec: &NetworkSpec) -> Result<Network, ApiError> {
    let subnets = assign_subnets(view, spec)
        .map_err(|error| ApiError::invalid(invalid_argument(&error.to_string())))?;
    let vni = free_vni(view).ok_or_else(|| {
        ApiError::new(ErrorKind::ResourceExhausted, "all VXLAN ids are given; remove a network")
    })?;
    Ok(Network { id, spec: spec.clone(), subnets, vni, ..Network::default() })
}

/// Names the networks of a service by their ids, as Docker does when it takes a service in.
pub(super) fn resolve(view: &View, spec: &mut ServiceSpec) -> Result<(), ApiError> {
    let ingress_id = view.cluster().map(|cluster| cluster.ingress_id());
    for attachment in spec.networks_mut() {
        let id = attachment.target.parse().ok();
        if id.is_some() && id == ingress_id {
            return Err(ApiError::invalid(validate::INGRESS_REFUSED));
        }
        let found = id.and_then(|id| view.network(id)).or_else(|| view.network_by_name(&attachment.target));
        let Some(network) = found else {
            return Err(ApiError::not_found(format!("network {} not found", attachment.target)));
        };
        attachment.target = network.id.to_string();
    }
    let mut seen = BTreeSet::new();
    match spec.network_ids().find(|id| !seen.insert(*id)) {
        Some(twice) => {
            Err(ApiError::invalid(format!("TaskTemplate.Networks: network {twice} is named twice")))
        }
        None => Ok(()),
    }
}

/// What a service asks of its networks and does not get yet, in a sentence; `None` when it asks for nothing.
#[must_use]
pub fn network_note(view: &View, spec: &ServiceSpec) -> Option<String> {
    missing(spec.network_ids().filter_map(|id| view.network(id)).map(|network| &network.spec))
}

fn missing<'a>(networks: impl IntoIterator<Item = &'a NetworkSpec>) -> Option<String> {
    let networks: Vec<&NetworkSpec> = networks.into_iter().collect();
    let names: Vec<&str> = networks.iter().map(|network| network.name.as_str()).collect();
    let (word, names) = match names.as_slice() {
        [] => return None,
        [one] => ("network", (*one).to_owned()),
        all => ("networks", all.join(", ")),
    };
    let mut note = format!("{word} {names}: tasks reach each other only by published ports yet");
    if networks.iter().any(|network| network.internal) {
        note.push_str("; internal is not enforced yet");
    }
    if networks.iter().any(|network| network.options.iter().flatten().any(|(key, _)| key == "encrypted")) {
        note.push_str("; encrypted is not carried out yet");
    }
    Some(note)
}

#[cfg(test)]
mod tests {
    use skep_api::{Id, Timestamp, object::Cluster};
    use skep_store::Draft;

    use super::*;

    fn view(networks: &[(u128, &str)]) -> View {
        let mut draft = Draft::new(View::default(), Timestamp(1));
        draft.push(Change::PutCluster(Arc::new(Cluster::default()))).unwrap();
        for (id, name) in networks {
            let spec = NetworkSpec { name: (*name).into(), internal: *name == "b", ..NetworkSpec::default() };
            let network = Network { id: NetworkId(Id(*id)), spec, ..Network::default() };
            draft.push(Change::PutNetwork(Arc::new(network))).unwrap();
        }
        (*draft).clone()
    }

    fn spec(place: &str, targets: &[&str]) -> ServiceSpec {
        let list: Vec<_> = targets.iter().map(|target| serde_json::json!({ "Target": target })).collect();
        let json = match place {
            "old" => serde_json::json!({ "Name": "s", "Networks": list }),
            _ => serde_json::json!({ "Name": "s", "TaskTemplate": { "Networks": list } }),
        };
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn networks_are_stored_by_id_and_shown_by_name() {
        let view = view(&[(1, "a"), (2, "b")]);
        let (one, two) = (NetworkId(Id(1)), NetworkId(Id(2)));
        for place in ["old", "new"] {
            let mut asked = spec(place, &["b", &one.to_string()]);
            resolve(&view, &mut asked).unwrap();
            assert_eq!(asked.network_ids().collect::<Vec<_>>(), [two, one]);
            assert_eq!(
                network_note(&view, &asked).unwrap(),
                "networks b, a: tasks reach each other only by published ports yet; internal is not enforced yet"
            );
        }
        assert_eq!(network_note(&view, &spec("new", &[])), None);
    }

    #[test]
    fn what_cannot_be_joined_is_named() {
        let view = view(&[(1, "a")]);
        let ingress = view.cluster().unwrap().ingress_id().to_string();
        let one = NetworkId(Id(1)).to_string();
        for (targets, kind, expect) in [
            (&["x"][..], ErrorKind::NotFound, "network x not found"),
            (&[ingress.as_str()], ErrorKind::InvalidArgument, validate::INGRESS_REFUSED),
            (&["a", &one], ErrorKind::InvalidArgument, "is named twice"),
        ] {
            let error = resolve(&view, &mut spec("new", targets)).unwrap_err();
            assert!(error.kind == kind && error.message.contains(expect), "{error}");
        }
    }
}
