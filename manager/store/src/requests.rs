//! The requests that came lately, with their answers: asked again, they are answered and not applied again;
//! and what was drafted while one was on its way can say that it builds on it.

use imbl::OrdMap;
use skep_api::{RequestId, wire};

use crate::{ANSWER_BYTES_MAX, Follows, REQUESTS_REMEMBERED, Refusal, Store};

/// The requests that a store remembers.
#[derive(Clone, Debug, Default)]
pub struct Requests(OrdMap<RequestId, Vec<u8>>);

impl Requests {
    /// Whether the request has come through the log.
    #[must_use]
    pub fn has(&self, id: RequestId) -> bool {
        self.0.contains_key(&id)
    }
}

impl Store {
    /// Which requests were applied or refused, as far as is remembered; O(1).
    #[must_use]
    pub fn requests(&self) -> Requests {
        Requests(self.requests.clone())
    }

    pub(crate) fn check_follows(&self, follows: &[wire::Follows]) -> Result<(), Refusal> {
        follows.iter().try_for_each(|follows| {
            let follows = Follows::try_from(follows)?;
            follows.check(&self.view, self.requests.get(&follows.request).map(Vec::as_slice))
        })
    }

    pub(crate) fn remember(&mut self, id: RequestId, answer: Vec<u8>) {
        self.answer_bytes += answer.len();
        self.requests.insert(id, answer);
        self.request_order.push_back(id);
        while (self.request_order.len() > REQUESTS_REMEMBERED || self.answer_bytes > ANSWER_BYTES_MAX)
            && let Some(oldest) = self.request_order.pop_front()
        {
            let forgotten = self.requests.remove(&oldest);
            self.answer_bytes -= forgotten.map_or(0, |answer| answer.len());
        }
    }
}
