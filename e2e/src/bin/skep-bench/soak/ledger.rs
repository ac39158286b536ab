//! Writers that remember every write that was acknowledged, and a check that each was made exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use skep_e2e::{WHOAMI, request_within, try_wait_for};

use crate::swarm::Node;

const N_WRITERS: usize = 2;
/// How long a write may take before it counts as not answered.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// How often a writer writes, and tries again after a refusal.
const WRITE_EVERY: Duration = Duration::from_millis(50);
const RETRY_AFTER: Duration = Duration::from_millis(400);
/// From here on services are removed again, so that the swarm does not grow for hours.
const SERVICES_MAX: usize = 500;

#[derive(Default)]
struct Books {
    /// Acknowledged creations that were not taken back: name to id.
    acknowledged: BTreeMap<String, String>,
    /// Writes without an answer, or with an error: they may be made.
    open: BTreeSet<String>,
    n_acknowledged: usize,
    n_open: usize,
}

/// Running writers; they end when it is dropped.
pub(super) struct Ledger {
    books: Arc<Mutex<Books>>,
    is_over: Arc<AtomicBool>,
}

impl Ledger {
    pub(super) fn start(managers: &[Node]) -> Self {
        let ledger = Self { books: Arc::default(), is_over: Arc::default() };
        for writer in 0..N_WRITERS {
            let (books, is_over) = (Arc::clone(&ledger.books), Arc::clone(&ledger.is_over));
            let managers = managers.to_vec();
            std::thread::spawn(move || {
                let turns = managers.iter().cycle().skip(writer);
                for (n, node) in turns.enumerate().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                    let pause = write(&books, node, &format!("write-{writer}-{n}"));
                    // A pause that nothing ends.
                    let _ = try_wait_for(pause, || None::<()>);
                }
            });
        }
        ledger
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn brief(&self) -> String {
        let books = self.books();
        format!("{} writes acknowledged, {} not", books.n_acknowledged, books.n_open)
    }

    /// Whether every acknowledged write is there, once, as `node` shows it.
    ///
    /// # Errors
    /// What is missing, double, or unknown.
    pub(super) fn look(&self, node: &Node) -> Result<(), String> {
        let before = self.books().acknowledged.clone();
        let ids = listed(node)?;
        for (name, id) in &before {
            match ids.get(name).map(Vec::as_slice) {
                Some([one]) if one == id => {}
                other => return Err(format!("acknowledged service {name} ({id}) is there as {other:?}")),
            }
        }
        match ids.iter().find(|(_, ids)| ids.len() > 1) {
            Some((name, double)) => Err(format!("service {name} is there more than once: {double:?}")),
            None => Ok(()),
        }
    }

    /// Removes the services of the writers once there are many.
    pub(super) fn tidy(&self, node: &Node) {
        let Ok(ids) = listed(node) else { return };
        if ids.len() <= SERVICES_MAX {
            return;
        }
        for (name, id) in ids.iter().filter_map(|(name, ids)| Some((name, ids.first()?))) {
            // First out of the books: from here on it may be gone. What is in neither book has its answer
            // on the way.
            let mut books = self.books();
            let is_known = books.acknowledged.remove(name).is_some() || books.open.remove(name);
            drop(books);
            if !is_known {
                continue;
            }
            let path = format!("/services/{id}");
            drop(request_within(&node.socket, "DELETE", &path, &[], "application/json", ANSWER_MAX));
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// The ids of the writers' services by name, as `node` shows them.
fn listed(node: &Node) -> Result<BTreeMap<String, Vec<String>>, String> {
    let answer = request_within(&node.socket, "GET", "/services", &[], "application/json", ANSWER_MAX);
    let answer = answer.map_err(|e| e.to_string())?;
    if answer.status != 200 {
        return Err(format!("list services: {}", answer.message()));
    }
    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for service in answer.json().as_array().into_iter().flatten() {
        let name = service["Spec"]["Name"].as_str().unwrap_or_default();
        if name.starts_with("write-") {
            let id = service["ID"].as_str().unwrap_or_default().to_owned();
            ids.entry(name.to_owned()).or_default().push(id);
        }
    }
    Ok(ids)
}

/// Creates the service `name`; how long to wait until the next.
fn write(books: &Mutex<Books>, node: &Node, name: &str) -> Duration {
    let spec: Value = json!({
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": WHOAMI}},
        "Mode": {"Replicated": {"Replicas": 0}},
    });
    let body = spec.to_string();
    let answer = request_within(
        &node.socket,
        "POST",
        "/services/create",
        body.as_bytes(),
        "application/json",
        ANSWER_MAX,
    );
    let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(answer) if answer.status == 201 => {
            let id = answer.json()["ID"].as_str().unwrap_or_default().to_owned();
            books.acknowledged.insert(name.to_owned(), id);
            books.n_acknowledged += 1;
            WRITE_EVERY
        }
        Ok(_) | Err(_) => {
            books.open.insert(name.to_owned());
            books.n_open += 1;
            RETRY_AFTER
        }
    }
}
