//! Clients: they read and write services by name through any member, and ask again what was not answered,
//! with the same request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skep_api::{Id, RequestId, ServiceId, Timestamp, object::Service, spec::ServiceSpec};
use skep_raft::TransportError;
use skep_store::{Change, Guard, GuardKind, Proposal, ProposalError, RefusalKind, View, decode_result};
use tokio::time::{Instant, sleep};

use super::history::{Kind, Operation, Outcome};
use super::wire::{self, DONE, PROPOSE, READ, REFUSED};
use super::world::World;

const N_KEYS: u64 = 4;
/// How long a client waits for one answer, and for any.
const ANSWER_LIMIT: Duration = Duration::from_millis(1500);
const GIVE_UP_AFTER: Duration = Duration::from_secs(4);
const LABEL: &str = "value";

/// A service as a read finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Found {
    id: Id,
    version: u64,
    value: u64,
}

/// What a view has under the name: 32 bytes, or none.
pub(crate) fn look(view: &View, name: &[u8]) -> Bytes {
    let Some(service) = view.service_by_name(std::str::from_utf8(name).unwrap()) else { return Bytes::new() };
    let value = value(service);
    let parts =
        [&service.id.0.0.to_le_bytes()[..], &service.meta.version.to_le_bytes(), &value.to_le_bytes()];
    parts.concat().into()
}

pub(crate) fn value(service: &Service) -> u64 {
    service.spec.labels.as_ref().unwrap()[LABEL].parse().unwrap()
}

fn read_found(bytes: &[u8]) -> Option<Found> {
    (!bytes.is_empty()).then(|| Found {
        id: Id(u128::from_le_bytes(bytes[..16].try_into().unwrap())),
        version: u64::from_le_bytes(bytes[16..24].try_into().unwrap()),
        value: u64::from_le_bytes(bytes[24..].try_into().unwrap()),
    })
}

fn service(id: Id, key: u64, value: u64) -> Arc<Service> {
    // Some writes are of several sectors.
    let filler = "x".repeat(usize::try_from(value % 4).unwrap() * 500);
    let labels = BTreeMap::from([(LABEL.to_owned(), value.to_string()), ("filler".to_owned(), filler)]);
    let spec = ServiceSpec { name: name(key), labels: Some(labels), ..ServiceSpec::default() };
    Arc::new(Service { id: ServiceId(id), spec: Arc::new(spec), ..Service::default() })
}

fn name(key: u64) -> String {
    format!("s{key}")
}

/// Goes on until the world is over.
pub(crate) async fn run(number: u64, world: World) -> turmoil::Result {
    let mut n_written = 0;
    while !world.lock().is_over {
        sleep(Duration::from_millis(5 + world.below(60))).await;
        let key = world.below(N_KEYS);
        let Some(found) = read(number, key, &world).await else { continue };
        if world.below(3) == 0 {
            continue;
        }
        n_written += 1;
        write(number, n_written, key, found, &world).await;
    }
    world.lock().n_clients -= 1;
    Ok(())
}

/// None: no member answered.
async fn read(number: u64, key: u64, world: &World) -> Option<Option<Found>> {
    let invoked = world.now();
    let answer = ask(READ, name(key).into(), world).await.ok()?;
    let found = read_found(&answer);
    let outcome = Outcome::Read(found.map(|found| found.value));
    let operation = Operation { key, kind: Kind::Read, invoked, returned: Some((world.now(), outcome)) };
    finish(number, operation, world);
    Some(found)
}

async fn write(number: u64, n: u64, key: u64, found: Option<Found>, world: &World) {
    // No other write of this simulation has this number.
    let value = number * 1_000_000 + n;
    let id = Id(u128::from(value));
    let guard = |id, version| Guard { kind: GuardKind::Service, id, version };
    let (kind, guard, change) = match found {
        None => (Kind::Create(value), guard(id, 0), Change::PutService(service(id, key, value))),
        Some(found) if world.below(4) == 0 => (
            Kind::Delete { seen: found.value },
            guard(found.id, found.version),
            Change::DeleteService(ServiceId(found.id)),
        ),
        Some(found) => (
            Kind::Replace { seen: found.value, value },
            guard(found.id, found.version),
            Change::PutService(service(found.id, key, value)),
        ),
    };
    let proposal = Proposal {
        request: Some(RequestId(id)),
        guards: vec![guard],
        changes: vec![change],
        now: Timestamp(1),
        ..Proposal::default()
    };
    let invoked = world.now();
    let returned = match ask(PROPOSE, proposal.encode().into(), world).await {
        Ok(answer) => {
            let done = match decode_result(&answer) {
                Ok(_) => true,
                Err(ProposalError::Refused(refusal)) => {
                    let expected = matches!(refusal.kind, RefusalKind::Stale | RefusalKind::NameTaken);
                    assert!(expected, "{refusal}");
                    false
                }
                Err(error @ ProposalError::Answer(_)) => panic!("{error}"),
            };
            Some((world.now(), Outcome::Written(done)))
        }
        // It must never be seen: nobody writes its value.
        Err(Unanswered::Refused) => return,
        Err(Unanswered::Unknown) => None,
    };
    finish(number, Operation { key, kind, invoked, returned }, world);
}

fn finish(number: u64, operation: Operation, world: &World) {
    let mut state = world.lock();
    state.trace.note(format!("c{number} {operation:?}"));
    state.figures.operations += 1;
    state.figures.open += u64::from(operation.returned.is_none());
    state.history.push(operation);
}

enum Unanswered {
    /// Every member that was asked said that it did not do it.
    Refused,
    /// It may be done, or come to be.
    Unknown,
}

/// Asks members at random until one answers.
async fn ask(what: u8, body: Bytes, world: &World) -> Result<Bytes, Unanswered> {
    let deadline = Instant::now() + GIVE_UP_AFTER;
    let mut unanswered = Unanswered::Refused;
    while Instant::now() < deadline {
        let target: Vec<u64> = world.lock().target.iter().copied().collect();
        let member = world.pick(&target);
        match wire::call(member, what, body.clone(), ANSWER_LIMIT).await {
            Ok((DONE, answer)) => return Ok(answer),
            Ok((REFUSED, _)) | Err(TransportError::Unreachable(_)) => {}
            Ok(_) | Err(TransportError::NoAnswer(_)) => unanswered = Unanswered::Unknown,
        }
        sleep(Duration::from_millis(10 + world.below(40))).await;
    }
    Err(unanswered)
}
