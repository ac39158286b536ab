//! Finds an object by what a person calls it: its id, its name, or the beginning of its id.

use std::{fmt::Display, sync::Arc};

use skep_api::{
    ApiError, NodeId,
    object::{Node, Service, Task},
};
use skep_manager::View;

/// The service meant by `word`.
pub(crate) fn service(view: &View, word: &str) -> Result<Arc<Service>, ApiError> {
    let by_id = word.parse().ok().and_then(|id| view.service(id));
    if let Some(found) = by_id.or_else(|| view.service_by_name(word)) {
        return Ok(Arc::clone(found));
    }
    by_prefix("service", word, view.services().map(|service| (service.id, service)))
}

/// The node meant by `word`; `self` is the one that answers.
pub(crate) fn node(view: &View, word: &str, own: NodeId) -> Result<Arc<Node>, ApiError> {
    let id = if word == "self" { Some(own) } else { word.parse().ok() };
    if let Some(found) = id.and_then(|id| view.node(id)) {
        return Ok(Arc::clone(found));
    }
    let named: Vec<_> = view
        .nodes()
        .filter(|node| node.description.hostname == word || node.spec.name.as_deref() == Some(word))
        .collect();
    match named.as_slice() {
        [] => by_prefix("node", word, view.nodes().map(|node| (node.id, node))),
        [one] => Ok(Arc::clone(one)),
        [_, ..] => Err(ambiguous("node", word, named.len())),
    }
}

/// The task meant by `word`.
pub(crate) fn task(view: &View, word: &str) -> Result<Arc<Task>, ApiError> {
    if let Some(found) = word.parse().ok().and_then(|id| view.task(id)) {
        return Ok(Arc::clone(found));
    }
    if let Some(found) = view.tasks().find(|task| task.name() == word) {
        return Ok(Arc::clone(found));
    }
    by_prefix("task", word, view.tasks().map(|task| (task.id, task)))
}

fn by_prefix<'a, T: 'a>(
    kind: &str,
    word: &str,
    all: impl Iterator<Item = (impl Display, &'a Arc<T>)>,
) -> Result<Arc<T>, ApiError> {
    let found: Vec<_> = all
        .filter(|(id, _)| !word.is_empty() && id.to_string().starts_with(word))
        .map(|(_, object)| object)
        .collect();
    match found.as_slice() {
        [] => Err(ApiError::not_found(format!("{kind} {word} not found"))),
        [one] => Ok(Arc::clone(one)),
        [_, ..] => Err(ambiguous(kind, word, found.len())),
    }
}

fn ambiguous(kind: &str, word: &str, n_found: usize) -> ApiError {
    ApiError::invalid(format!("{kind} {word} is ambiguous ({n_found} matches found)"))
}
