//! Tasks.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    http::Uri,
    routing::get,
};
use serde_json::Value;
use skep_api::{
    ApiError, NodeId, ServiceId, TaskState,
    object::{Service, Task},
};
use skep_manager::{Differences, View, network_note};

use super::{
    Api,
    answer::{Answer, Params, ok},
    filter::Filters,
    lookup, render,
};

const FILTERS: &[&str] =
    &["_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"];

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/tasks", get(list)).route("/tasks/{id}", get(inspect))
}

/// The filters with words turned into ids once.
struct Wanted {
    filters: Filters,
    services: Option<Vec<ServiceId>>,
    nodes: Option<Vec<NodeId>>,
    up_to_date: bool,
}

impl Wanted {
    /// # Errors
    /// There is no such service or node, as Docker has it; but the whole id of one that is gone finds the tasks that it
    /// still has.
    fn new(filters: Filters, view: &View, own: NodeId) -> Result<Self, ApiError> {
        let services = filters.values("service").iter().map(|word| {
            let left = |id: &ServiceId| view.tasks_of_service(*id).next().is_some();
            lookup::service(view, word)
                .map(|service| service.id)
                .or_else(|error| word.parse().ok().filter(left).ok_or(error))
        });
        let services = services.collect::<Result<Vec<_>, _>>()?;
        let nodes = filters.values("node").iter().map(|word| {
            let left = |id: &NodeId| view.tasks_of_node(*id).next().is_some();
            lookup::node(view, word, own)
                .map(|node| node.id)
                .or_else(|error| word.parse().ok().filter(left).ok_or(error))
        });
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            services: (!services.is_empty()).then_some(services),
            nodes: (!nodes.is_empty()).then_some(nodes),
            up_to_date: !filters.values("_up-to-date").is_empty(),
            filters,
        })
    }

    /// The tasks that may pass: by an index where there is one.
    fn candidates(&self, view: &View) -> Vec<Arc<Task>> {
        if let Some(services) = &self.services {
            return services.iter().flat_map(|id| view.tasks_of_service(*id)).cloned().collect();
        }
        match &self.nodes {
            Some(nodes) => {
                let placed = nodes.iter().flat_map(|id| view.tasks_of_node(*id));
                // What does not fit on the node that is its seat is shown there.
                let waiting = view.global_services().flat_map(|service| view.unplaced_of_service(service.id));
                placed.chain(waiting).cloned().collect()
            }
            None => view.tasks().cloned().collect(),
        }
    }

    /// `compared` are the services whose tasks came before.
    fn passes(
        &self,
        task: &Task,
        service: Option<&Service>,
        view: &View,
        compared: &mut BTreeMap<ServiceId, Differences>,
    ) -> bool {
        let mut is_dirty =
            |service: &Service| compared.entry(service.id).or_default().is_dirty(view, task, service);
        let filters = &self.filters;
        self.nodes
            .as_ref()
            .is_none_or(|nodes| task.node_id.or(task.for_node()).is_some_and(|id| nodes.contains(&id)))
            && filters.prefix("id", &task.id.to_string())
            && filters.prefix("name", &task.name())
            && filters.labels("label", task.spec.labels.as_ref())
            && filters.any("runtime", |runtime| runtime == "container")
            && filters.word("desired-state", task.desired_state.as_str())
            && (!self.up_to_date || service.is_some_and(|service| !is_dirty(service)))
    }
}

async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let control = api.manager()?;
    let filters = Filters::parse(Params::of(&uri)?.text("filters"), FILTERS)?;
    // Docker has one more, which its tasks come to between two others of ours.
    let words: Vec<&str> = TaskState::ALL.iter().map(|state| state.as_str()).chain(["allocated"]).collect();
    filters.check_word("desired-state", &words)?;
    let view = control.view().await?;
    let wanted = Wanted::new(filters, &view, control.node_id())?;
    let mut compared = BTreeMap::new();
    let service = |task: &Task| view.service(task.service_id).map(AsRef::as_ref);
    let tasks: Vec<Value> = wanted
        .candidates(&view)
        .iter()
        .filter(|task| wanted.passes(task, service(task), &view, &mut compared))
        .map(|task| shown(task, &view))
        .collect();
    ok(&tasks)
}

async fn inspect(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let control = api.manager()?;
    let view = control.view().await?;
    let task = lookup::task(&view, &word)?;
    ok(&shown(&task, &view))
}

fn shown(task: &Task, view: &View) -> Value {
    render::task(task, view.cluster().map(AsRef::as_ref), network_note(view, &task.spec).as_deref())
}
