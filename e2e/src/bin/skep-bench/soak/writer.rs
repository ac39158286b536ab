//! One client of a soak: creates, changes, scales, labels and removes services of its own through any
//! manager, reads them back through another, and notes in the books what it was told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use skep_e2e::{Answer, request_within, try_wait_for};

use super::Dice;
use super::books::{Outcome, Refusal, Seen, Write};
use super::ledger::Shared;
use super::mark::Mark;
use crate::swarm::Node;

/// How long a call may take before its outcome counts as unknown.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(4);
/// What all writers' services are named.
pub(super) const PREFIX: &str = "write-";
/// How long a writer rests after a call, and after one that failed.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);
/// How many services a writer keeps before it removes one for each that it makes.
const SERVICES_MAX: usize = 15;
/// A label of so many bytes: a few dozens of them fill a segment of a log.
const FILLING: usize = 256 * 1024;
/// What is done to a service, by chance.
const CHANGES: [&str; 8] = ["update", "update", "scale", "scale", "label", "label", "remove", "look"];

/// A call that told its caller nothing certain, or that the manager does not serve now.
struct NoAnswer;

pub(super) struct Writer {
    name: String,
    shared: Arc<Shared>,
    managers: Vec<Node>,
    dice: Dice,
    /// Its services, those with an unknown outcome included.
    mine: Vec<String>,
    n_writes: u64,
}

impl Writer {
    pub(super) fn new(n: u64, seed: u64, managers: &[Node], shared: &Arc<Shared>) -> Self {
        Self {
            name: format!("w{n}"),
            shared: Arc::clone(shared),
            managers: managers.to_vec(),
            dice: Dice(seed.wrapping_mul(1000).wrapping_add(n)),
            mine: Vec::new(),
            n_writes: 0,
        }
    }

    /// Writes until the soak is over.
    pub(super) fn run(mut self) {
        while !self.shared.is_over.load(Ordering::Relaxed) {
            let shared = Arc::clone(&self.shared);
            let gate = shared.pass();
            let done = self.act();
            drop(gate);
            let pause = if done.is_ok() { PAUSE } else { PAUSE_AFTER_FAILURE };
            // A pause that nothing ends.
            let _ = try_wait_for(pause, || None::<()>);
        }
    }

    fn act(&mut self) -> Result<(), NoAnswer> {
        let node = self.dice.pick(&self.managers).clone();
        if self.shared.is_filling.load(Ordering::Relaxed) && self.dice.one_in(2) {
            let name = format!("{PREFIX}{}-filling", self.name);
            // Small again with its next change, once no disk is being filled.
            if !self.mine.contains(&name) {
                self.mine.push(name.clone());
            }
            // Not in one expression: the books are not held while a call notes what it is told.
            let is_here = self.shared.books().here(&name).is_some();
            return if is_here {
                self.update(&node, &name, "label", FILLING)
            } else {
                self.create(&node, &name)
            };
        }
        let n = u64::try_from(self.mine.len()).unwrap_or(u64::MAX);
        if n == 0 || (self.mine.len() < SERVICES_MAX && self.dice.one_in(4)) {
            let name = format!("{PREFIX}{}-{}", self.name, self.n_writes);
            self.mine.push(name.clone());
            return self.create(&node, &name);
        }
        let name = self.dice.pick(&self.mine).clone();
        let is_here = self.shared.books().here(&name).is_some();
        if !is_here {
            // Removed, or it may never have come to be: made again under the same name, or looked for.
            return if self.dice.one_in(2) { self.create(&node, &name) } else { self.look(&node, &name) };
        }
        match *self.dice.pick(&CHANGES) {
            "look" => self.look(&node, &name),
            "remove" => self.remove(&node, &name),
            kind => self.update(&node, &name, kind, 0),
        }
    }

    fn unique(&mut self) -> String {
        self.n_writes += 1;
        format!("{}-{}", self.name, self.n_writes)
    }

    fn create(&mut self, node: &Node, name: &str) -> Result<(), NoAnswer> {
        let unique = self.unique();
        let mark = Mark { env: format!("E={unique}"), unique, replicas: self.dice.next() % 3, filling: 0 };
        let spec = mark.spec(name);
        self.write("create", node, "/services/create", &spec, name, Write::Create(mark))?;
        self.look_elsewhere(name)
    }

    fn update(
        &mut self,
        node: &Node,
        name: &str,
        kind: &'static str,
        filling: usize,
    ) -> Result<(), NoAnswer> {
        self.look(node, name)?;
        // Removed by a call whose outcome was unknown.
        let Some(here) = self.shared.books().here(name).cloned() else { return Ok(()) };
        let unique = self.unique();
        let mut mark = Mark { unique: unique.clone(), filling, ..here.mark };
        match kind {
            "update" => mark.env = format!("E={unique}"),
            "scale" => mark.replicas = (mark.replicas + 1) % 3,
            _ => {}
        }
        let spec = mark.spec(name);
        let path = format!("/services/{}/update?version={}", here.id, here.version);
        self.write(kind, node, &path, &spec, name, Write::Update { mark, guard: here.version })?;
        self.look_elsewhere(name)
    }

    fn remove(&mut self, node: &Node, name: &str) -> Result<(), NoAnswer> {
        let Some(id) = self.shared.books().here(name).map(|here| here.id.clone()) else { return Ok(()) };
        let path = format!("/services/{id}");
        self.write("remove", node, &path, &Value::Null, name, Write::Remove)?;
        self.look_elsewhere(name)?;
        if self.dice.one_in(2) {
            self.mine.retain(|mine| mine != name);
        }
        Ok(())
    }

    fn write(
        &self,
        kind: &'static str,
        node: &Node,
        path: &str,
        body: &Value,
        name: &str,
        write: Write,
    ) -> Result<(), NoAnswer> {
        let method = if matches!(write, Write::Remove) { "DELETE" } else { "POST" };
        let outcome = outcome(ask(&node.socket, method, path, body));
        let is_done = matches!(outcome, Outcome::Acknowledged(_));
        self.shared.count(kind, &outcome);
        let told = self.shared.books().told(name, write, outcome);
        self.shared.note(told.map_err(|why| format!("through {}: {why}", node.name)));
        if is_done { Ok(()) } else { Err(NoAnswer) }
    }

    /// Reads through any manager: what was acknowledged through one is seen through each.
    fn look_elsewhere(&mut self, name: &str) -> Result<(), NoAnswer> {
        let node = self.dice.pick(&self.managers).clone();
        self.look(&node, name)
    }

    fn look(&self, node: &Node, name: &str) -> Result<(), NoAnswer> {
        let answer = ask(&node.socket, "GET", &format!("/services/{name}"), &Value::Null);
        let seen = match answer {
            Ok(answer) if answer.status == 200 => seen(&answer.json()).map(Some),
            Ok(answer) if answer.status == 404 => Ok(None),
            Ok(_) | Err(_) => return Err(NoAnswer),
        };
        let noted = seen.and_then(|seen| self.shared.books().saw(name, seen));
        self.shared.note(noted.map_err(|why| format!("read through {}: {why}", node.name)));
        Ok(())
    }
}

pub(super) fn ask(socket: &Path, method: &str, path: &str, body: &Value) -> std::io::Result<Answer> {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    request_within(socket, method, path, &bytes, "application/json", ANSWER_MAX)
}

/// A service as the API shows it.
///
/// # Errors
/// Its spec is not the one that its mark stands for.
pub(super) fn seen(service: &Value) -> Result<Seen, String> {
    let id = service["ID"].as_str().unwrap_or_default().to_owned();
    let version = service["Version"]["Index"].as_u64().unwrap_or_default();
    let mark = Mark::of(&service["Spec"]).map_err(|why| format!("{id}: {why}"))?;
    Ok(Seen { id, mark, version })
}

/// What an answer says of a write. Refusals are taken at their word.
fn outcome(answer: std::io::Result<Answer>) -> Outcome {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let answer = match answer {
        Ok(answer) => answer,
        // Nobody listened.
        Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => {
            return Outcome::Refused(Refusal::NotNow("nobody listens"));
        }
        Err(_) => return Outcome::Unknown,
    };
    let words = answer.message();
    let is_not_now =
        ["does not have a leader", "This node is not a swarm manager", "this manager's disk is full"];
    if let (503, Some(why)) = (answer.status, is_not_now.into_iter().find(|known| words.contains(known))) {
        return Outcome::Refused(Refusal::NotNow(why));
    }
    match answer.status {
        ..300 => Outcome::Acknowledged(answer.json()["ID"].as_str().map(str::to_owned)),
        404 => Outcome::Refused(Refusal::NotFound),
        409 => Outcome::Refused(Refusal::NameTaken),
        500 if words.ends_with("update out of sequence") => Outcome::Refused(Refusal::Stale),
        300..500 => Outcome::Refused(Refusal::Other(format!("{} {words}", answer.status))),
        500.. => Outcome::Unknown,
    }
}
