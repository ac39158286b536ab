//! Whose tasks are placed next: service by service in a circle that goes on from pass to pass.

use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Unbounded},
};

use skep_api::{Id, ServiceId};
use skep_store::{Placing, View};

/// One pass's part of the circle.
#[derive(Debug)]
pub(super) struct Round {
    /// These are looked at, wherever they are.
    services: BTreeSet<ServiceId>,
    /// Behind this one it begins; `None` for before all.
    start: Option<ServiceId>,
    at: Option<ServiceId>,
    /// Where it was before that.
    before: Option<ServiceId>,
    /// Up to this one all are looked at that have tasks which wait; `None` for no others.
    upto: Option<ServiceId>,
    /// It came to the end, and went on at the beginning.
    has_wrapped: bool,
}

impl Round {
    /// Goes on where the last pass stopped, with these besides; with all, once around, if `is_all`.
    pub(super) fn new(before: &Placing, scope: impl Iterator<Item = ServiceId>, is_all: bool) -> Self {
        let start = before.at;
        let once_around = || start.unwrap_or(ServiceId(Id(u128::MAX)));
        Self {
            services: before.services.iter().copied().chain(scope).collect(),
            start,
            at: start,
            before: start,
            upto: if is_all { Some(once_around()) } else { before.upto },
            has_wrapped: false,
        }
    }

    /// Looks at these, too.
    pub(super) fn add(&mut self, services: impl Iterator<Item = ServiceId>) {
        self.services.extend(services);
    }

    /// Takes a service out of turn, if it is among those that are looked at wherever they are.
    pub(super) fn takes(&mut self, id: ServiceId) -> bool {
        self.services.remove(&id)
    }

    /// The next service.
    pub(super) fn next(&mut self, view: &View) -> Option<ServiceId> {
        loop {
            let from = self.at.map_or(Unbounded, Excluded);
            let single = self.services.range((from, Unbounded)).next().copied();
            if let Some(next) = single.into_iter().chain(self.of_all(view)).min() {
                self.services.remove(&next);
                if self.upto == Some(next) && self.ends_here(next) {
                    // Left as it is, it would be a whole circle to the next pass.
                    self.upto = None;
                }
                (self.before, self.at) = (self.at, Some(next));
                return Some(next);
            }
            if self.has_wrapped {
                return None;
            }
            (self.has_wrapped, self.at) = (true, None);
        }
    }

    fn of_all(&mut self, view: &View) -> Option<ServiceId> {
        let upto = self.upto?;
        let ends_here = self.ends_here(upto);
        let next = view.service_with_unplaced_after(self.at).filter(|id| !ends_here || *id <= upto);
        if next.is_none() && ends_here {
            self.upto = None;
        }
        next
    }

    /// Whether the circle ends before it comes to its end and goes on at the beginning.
    fn ends_here(&self, upto: ServiceId) -> bool {
        self.has_wrapped || self.start.is_none_or(|start| upto > start)
    }

    /// What is left for the next pass, and of services that it came to, these. It begins with the last one again if that
    /// `is_cut`.
    pub(super) fn rest(mut self, more: BTreeSet<ServiceId>, is_cut: bool) -> Placing {
        self.services.extend(more);
        let at = if is_cut { self.before } else { self.at };
        let rest = Placing { at, upto: self.upto, services: self.services };
        if rest.is_done() { Placing::default() } else { rest }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_api::{
        TaskId, Timestamp,
        object::{Service, Task},
        spec::ServiceSpec,
    };
    use skep_store::{Change, Draft};

    use super::*;

    fn id(n: u64) -> ServiceId {
        ServiceId(Id(n.into()))
    }

    /// Services 1 to `n`, each with a task that waits.
    fn view(n: u64) -> Draft {
        let mut draft = Draft::new(View::default(), Timestamp(1));
        for n in 1..=n {
            let spec: ServiceSpec = serde_json::from_str(&format!(r#"{{"Name":"s{n}"}}"#)).unwrap();
            let service = Service { id: id(n), spec: Arc::new(spec), ..Service::default() };
            draft.push(Change::PutService(Arc::new(service))).unwrap();
            let task = Task::new(TaskId(Id(n.into())), draft.service(id(n)).unwrap(), 1);
            draft.push(Change::PutTask(Arc::new(task))).unwrap();
        }
        draft
    }

    #[track_caller]
    fn check(
        view: &View,
        before: &Placing,
        scope: &[u64],
        is_all: bool,
        n: usize,
        expect: &[u64],
    ) -> Placing {
        let mut round = Round::new(before, scope.iter().map(|n| id(*n)), is_all);
        let found: Vec<ServiceId> = std::iter::from_fn(|| round.next(view)).take(n).collect();
        assert_eq!(found, expect.iter().map(|n| id(*n)).collect::<Vec<_>>());
        round.rest(BTreeSet::new(), false)
    }

    #[test]
    fn each_service_has_its_turn() {
        let view = view(5);
        let (none, rest) = (Placing::default(), Placing::default());
        check(&view, &none, &[2, 4], false, 9, &[2, 4]);
        check(&view, &none, &[4, 9], true, 9, &[1, 2, 3, 4, 5, 9]);
        let rest = check(&view, &rest, &[], true, 2, &[1, 2]);
        assert!(!rest.is_done());
        // What is new has its turn among the others, and whoever came last comes last.
        let rest = check(&view, &rest, &[1], false, 2, &[3, 4]);
        let rest = check(&view, &rest, &[], true, 3, &[5, 1, 2]);
        let rest = check(&view, &rest, &[], false, 9, &[3, 4]);
        assert!(rest.is_done());
    }

    #[test]
    fn a_circle_that_ends_with_the_pass_is_done() {
        let view = view(5);
        let last = Placing { at: Some(id(5)), ..Placing::default() };
        let rest = check(&view, &last, &[], true, 5, &[1, 2, 3, 4, 5]);
        assert!(rest.is_done(), "{rest:?}");
        let rest = check(&view, &Placing { at: Some(id(3)), ..last }, &[], true, 5, &[4, 5, 1, 2, 3]);
        assert!(rest.is_done(), "{rest:?}");
        let rest = check(&view, &Placing { at: Some(id(3)), ..rest }, &[], true, 4, &[4, 5, 1, 2]);
        check(&view, &rest, &[], false, 9, &[3]);
    }

    #[test]
    fn one_that_comes_between_does_not_start_the_circle_anew() {
        let view = view(5);
        let rest = check(&view, &Placing::default(), &[], true, 2, &[1, 2]);
        let rest = check(&view, &Placing { upto: Some(id(3)), ..rest }, &[5], false, 2, &[3, 5]);
        assert!(rest.is_done(), "{rest:?}");
    }

    #[test]
    fn what_a_service_has_left_is_looked_at_again() {
        let view = view(3);
        let mut round = Round::new(&Placing::default(), [id(2), id(3)].into_iter(), false);
        assert_eq!(round.next(&view), Some(id(2)));
        let rest = round.rest([id(2)].into(), false);
        check(&view, &rest, &[], false, 9, &[3, 2]);
        // At once, if there was room for more of it.
        let mut round = Round::new(&Placing::default(), [id(2), id(3)].into_iter(), true);
        assert_eq!((round.next(&view), round.next(&view)), (Some(id(1)), Some(id(2))));
        let rest = round.rest([id(2)].into(), true);
        check(&view, &rest, &[], false, 9, &[2, 3]);
    }
}
