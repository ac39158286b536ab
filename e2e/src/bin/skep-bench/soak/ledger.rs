//! Writers with books of what they were told, and checks of what all managers show against them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use serde_json::Value;

use super::books::{Books, Outcome, Seen};
use super::writer::{PREFIX, Writer, ask, seen};
use crate::swarm::Node;

/// What writers and checks share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    books: Mutex<Books>,
    /// Acknowledged, refused and unknown writes of each kind.
    tally: Mutex<BTreeMap<&'static str, [u64; 3]>>,
    /// The first thing that cannot be.
    wrong: Mutex<Option<String>>,
    /// Held by each writer for the time of a call and its note, and by a check to be alone.
    gate: RwLock<()>,
    pub(super) is_over: AtomicBool,
    /// A disk is being filled: logs are to grow fast.
    pub(super) is_filling: AtomicBool,
}

impl Shared {
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// Waits until no check is under way.
    pub(super) fn pass(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, noted: Result<(), String>) {
        if let Err(why) = noted {
            lock(&self.wrong).get_or_insert(why);
        }
    }

    pub(super) fn count(&self, kind: &'static str, outcome: &Outcome) {
        let at = match outcome {
            Outcome::Acknowledged(_) => 0,
            Outcome::Refused(_) => 1,
            Outcome::Unknown => 2,
        };
        lock(&self.tally).entry(kind).or_default()[at] += 1;
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Running writers; they end when it is dropped.
pub(super) struct Ledger(Arc<Shared>);

impl Ledger {
    pub(super) fn start(managers: &[Node], seed: u64, n_writers: u64) -> Self {
        let shared = Arc::<Shared>::default();
        for n in 0..n_writers {
            let writer = Writer::new(n, seed, managers, &shared);
            std::thread::spawn(move || writer.run());
        }
        Self(shared)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// What cannot be, once something was seen or told that cannot.
    pub(super) fn wrong(&self) -> Option<String> {
        lock(&self.0.wrong).clone()
    }

    /// How many writes came to which end, of each kind.
    pub(super) fn brief(&self) -> String {
        let tally = lock(&self.0.tally);
        let sum = |at: usize| tally.values().map(|n| n[at]).sum::<u64>();
        let kinds: Vec<String> = tally.iter().map(|(kind, n)| format!("{kind} {}", n[0])).collect();
        format!(
            "{} writes acknowledged ({}), {} refused, {} unknown",
            sum(0),
            kinds.join(", "),
            sum(1),
            sum(2)
        )
    }

    /// Compares what each of `managers` shows with the books, while nobody writes; what contradicts them is
    /// noted as wrong for good.
    ///
    /// # Errors
    /// What is not there yet, or a manager that does not answer.
    pub(super) fn look(&self, managers: &[Node]) -> Result<(), String> {
        let _alone = self.0.gate.write().unwrap_or_else(PoisonError::into_inner);
        for node in managers {
            let noted = listed(node)?.and_then(|listed| self.0.books().saw_all(listed));
            self.0.note(noted.map_err(|why| format!("listed through {}: {why}", node.name)));
        }
        match managers.first() {
            Some(node) => slots(node, &self.0.books()),
            None => Err("no manager answers".to_owned()),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.0.is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The writers' services by name, as `node` shows them; inside, what cannot be.
///
/// # Errors
/// It does not answer.
fn listed(node: &Node) -> Result<Result<BTreeMap<String, Vec<Seen>>, String>, String> {
    let services = list(node, "/services")?;
    let mut listed: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for service in &services {
        let name = service["Spec"]["Name"].as_str().unwrap_or_default();
        if name.starts_with(PREFIX) {
            match seen(service) {
                Ok(seen) => listed.entry(name.to_owned()).or_default().push(seen),
                Err(why) => return Ok(Err(why)),
            }
        }
    }
    Ok(Ok(listed))
}

fn list(node: &Node, path: &str) -> Result<Vec<Value>, String> {
    let answer = ask(&node.socket, "GET", path, &Value::Null).map_err(|e| format!("{}: {e}", node.name))?;
    if answer.status != 200 {
        return Err(format!("{}: GET {path}: {} {}", node.name, answer.status, answer.message()));
    }
    Ok(answer.json().as_array().cloned().unwrap_or_default())
}

/// Whether each settled service has one task that is meant to run in each slot, and no other.
fn slots(node: &Node, books: &Books) -> Result<(), String> {
    let mut meant: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for task in list(node, "/tasks")? {
        if ["running", "ready"].contains(&task["DesiredState"].as_str().unwrap_or_default()) {
            let service = task["ServiceID"].as_str().unwrap_or_default().to_owned();
            meant.entry(service).or_default().push(task["Slot"].as_u64().unwrap_or_default());
        }
    }
    for (name, service) in books.settled() {
        let slots = meant.remove(&service.id).unwrap_or_default();
        let distinct: BTreeSet<u64> = slots.iter().copied().collect();
        let n = u64::try_from(distinct.len()).unwrap_or_default();
        if distinct.len() != slots.len() || n != service.mark.replicas {
            return Err(format!("{name} has tasks in the slots {slots:?} for {service:?}"));
        }
    }
    Ok(())
}
