//! What the writers of a soak were told, service by service, and whether what a manager shows can be true.
//!
//! A write has one of three outcomes: acknowledged, refused (it must never be seen), or unknown (it may
//! have come to be, or may yet). Each name belongs to one writer, which has one write under way at a time.

use std::collections::BTreeMap;

use super::mark::Mark;

/// A service as a manager shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) mark: Mark,
    pub(super) version: u64,
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Create(Mark),
    /// Made from the version `guard`: it is void as soon as there is a later one.
    Update {
        mark: Mark,
        guard: u64,
    },
    Remove,
}

/// What its writer was told of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With the id of what was created.
    Acknowledged(Option<String>),
    /// Certainly not made.
    Refused(Refusal),
    Unknown,
}

/// Why a write was certainly not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The manager does not serve now, for this reason: any write may meet that.
    NotNow(&'static str),
    /// The version that it was made from is not the last one.
    Stale,
    NameTaken,
    NotFound,
    Other(String),
}

/// All that is known of one name.
#[derive(Debug, Default)]
struct Entry {
    /// The service as last acknowledged or seen.
    here: Option<Seen>,
    /// Writes of unknown outcome that may still come to be.
    open: Vec<Write>,
    /// The last write that was certainly not made, for messages.
    refused: Option<(Write, Refusal)>,
}

/// What the writers know of their services.
#[derive(Debug, Default)]
pub(super) struct Books(BTreeMap<String, Entry>);

impl Books {
    /// What is known to be there under the name.
    pub(super) fn here(&self, name: &str) -> Option<&Seen> {
        self.0.get(name)?.here.as_ref()
    }

    /// The services that are certainly there, with nothing under way that may change them.
    pub(super) fn settled(&self) -> impl Iterator<Item = (&str, &Seen)> {
        let certain = self.0.iter().filter(|(_, entry)| entry.open.is_empty());
        certain.filter_map(|(name, entry)| Some((name.as_str(), entry.here.as_ref()?)))
    }

    /// Notes the outcome of a write.
    ///
    /// # Errors
    /// No history allows it: in words for a person.
    pub(super) fn told(&mut self, name: &str, write: Write, outcome: Outcome) -> Result<(), String> {
        let entry = self.0.entry(name.to_owned()).or_default();
        if let Outcome::Refused(why) = &outcome {
            entry.refused = Some((write.clone(), why.clone()));
        }
        let known = format!("{write:?}; known: {entry:?}");
        let contradiction = |what: &str| Err(format!("{name}: a write {what}: {known}"));
        match outcome {
            Outcome::Unknown => entry.open.push(write),
            Outcome::Refused(Refusal::NotNow(_) | Refusal::Stale) => {}
            Outcome::Refused(Refusal::NameTaken) => {
                let may_be = entry.open.iter().any(|open| matches!(open, Write::Create(_)));
                if !may_be && entry.here.is_none() {
                    return contradiction("found its name taken, which nobody took");
                }
            }
            Outcome::Refused(Refusal::NotFound) => {
                if !entry.open.contains(&Write::Remove) {
                    return contradiction("found nothing, which nobody removed");
                }
            }
            Outcome::Refused(Refusal::Other(ref words)) => {
                return contradiction(&format!("was refused: {words}"));
            }
            Outcome::Acknowledged(id) => return entry.acknowledged(name, write, id),
        }
        Ok(())
    }

    /// Notes what a read of the name showed.
    ///
    /// # Errors
    /// No history allows it: in words for a person.
    pub(super) fn saw(&mut self, name: &str, seen: Option<Seen>) -> Result<(), String> {
        let entry = self.0.entry(name.to_owned()).or_default();
        let shown = format!("{seen:?}");
        entry.saw(seen).map_err(|why| format!("{name}: {why}; shown: {shown}; known: {entry:?}"))
    }

    /// Notes a list of all services; a name may be in it once.
    ///
    /// # Errors
    /// No history allows it: in words for a person.
    pub(super) fn saw_all(&mut self, mut listed: BTreeMap<String, Vec<Seen>>) -> Result<(), String> {
        if let Some((name, double)) = listed.iter().find(|(_, seen)| seen.len() > 1) {
            return Err(format!("{name} is there more than once: {double:?}"));
        }
        let names: Vec<String> = self.0.keys().cloned().collect();
        for name in names {
            let seen = listed.remove(&name).and_then(|mut seen| seen.pop());
            self.saw(&name, seen)?;
        }
        match listed.pop_first() {
            Some((name, seen)) => Err(format!("{name} is there, which nobody created: {seen:?}")),
            None => Ok(()),
        }
    }
}

impl Entry {
    fn acknowledged(&mut self, name: &str, write: Write, id: Option<String>) -> Result<(), String> {
        match (write, self.here.take()) {
            (Write::Create(mark), None) => {
                self.here = Some(Seen { id: id.unwrap_or_default(), mark, version: 0 });
            }
            (Write::Update { mark, guard }, Some(here)) => {
                self.open.retain(|open| !matches!(open, Write::Update { .. }));
                self.here = Some(Seen { mark, version: guard + 1, ..here });
            }
            (Write::Remove, _) => self.open.retain(|open| matches!(open, Write::Create(_))),
            (write, here) => {
                return Err(format!("{name}: {write:?} was acknowledged; known: {here:?}, {:?}", self.open));
            }
        }
        Ok(())
    }

    fn saw(&mut self, seen: Option<Seen>) -> Result<(), &'static str> {
        let may_be_removed = self.open.contains(&Write::Remove);
        let Some(seen) = seen else {
            if self.here.is_some() && !may_be_removed {
                return Err("it is gone");
            }
            self.here = None;
            self.open.retain(|open| matches!(open, Write::Create(_)));
            return Ok(());
        };
        match &self.here {
            Some(here) if here.id == seen.id => {
                if seen.version < here.version {
                    return Err("its version went back");
                }
                let made = |open: &Write| matches!(open, Write::Update { mark, guard } if *mark == seen.mark && *guard < seen.version);
                if seen.mark != here.mark && !self.open.iter().any(made) {
                    return Err("it is not what was acknowledged last");
                }
                let is_void =
                    |open: &Write| matches!(open, Write::Update { guard, .. } if *guard < seen.version);
                self.open.retain(|open| !is_void(open));
            }
            Some(_) if !may_be_removed => return Err("it is another one"),
            Some(_) | None => {
                let created = Write::Create(seen.mark.clone());
                if !self.open.contains(&created) {
                    return Err("it should not be there");
                }
                self.open.retain(|open| matches!(open, Write::Create(_)) && *open != created);
            }
        }
        self.here = Some(seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::mark::Mark;
    use super::{Books, Outcome, Refusal, Seen, Write};

    fn mark(unique: &str) -> Mark {
        Mark { unique: unique.to_owned(), replicas: 0, env: String::new(), filling: 0 }
    }

    fn seen(id: &str, unique: &str, version: u64) -> Option<Seen> {
        Some(Seen { id: id.to_owned(), mark: mark(unique), version })
    }

    fn create(unique: &str) -> Write {
        Write::Create(mark(unique))
    }

    fn update(unique: &str, guard: u64) -> Write {
        Write::Update { mark: mark(unique), guard }
    }

    fn acknowledged(id: &str) -> Outcome {
        Outcome::Acknowledged(Some(id.to_owned()))
    }

    /// The service `a` as created and seen at version 5.
    fn one() -> Books {
        let mut books = Books::default();
        books.told("a", create("c1"), acknowledged("id")).unwrap();
        books.saw("a", seen("id", "c1", 5)).unwrap();
        books
    }

    #[test]
    fn what_was_acknowledged_stays_as_it_is() {
        for (what, wrong) in [
            ("gone", None),
            ("an older version", seen("id", "c1", 4)),
            ("never written", seen("id", "u9", 6)),
            ("another one", seen("other", "c1", 6)),
        ] {
            assert!(one().saw("a", wrong).is_err(), "{what}");
        }
        one().saw("a", seen("id", "c1", 6)).unwrap();
    }

    #[test]
    fn an_unknown_update_may_come_to_be_until_the_version_moves_on() {
        let mut books = one();
        books.told("a", update("u1", 5), Outcome::Unknown).unwrap();
        books.saw("a", seen("id", "c1", 5)).unwrap();
        books.saw("a", seen("id", "u1", 6)).unwrap();
        assert!(books.saw("a", seen("id", "c1", 7)).is_err(), "it never goes back");

        let mut books = one();
        books.told("a", update("u1", 5), Outcome::Unknown).unwrap();
        books.told("a", update("u2", 5), acknowledged("")).unwrap();
        assert!(books.saw("a", seen("id", "u1", 7)).is_err(), "its version had passed");
        books.saw("a", seen("id", "u2", 6)).unwrap();
    }

    #[test]
    fn a_refused_write_is_never_seen() {
        let mut books = one();
        books.told("a", update("u1", 5), Outcome::Refused(Refusal::NotNow("no leader"))).unwrap();
        assert!(books.saw("a", seen("id", "u1", 6)).is_err());
        assert!(books.told("a", Write::Remove, Outcome::Refused(Refusal::NotFound)).is_err());
        assert!(Books::default().told("b", create("c1"), Outcome::Refused(Refusal::NameTaken)).is_err());
    }

    #[test]
    fn an_unknown_removal_and_a_late_creation_are_told_apart() {
        let mut books = one();
        books.told("a", Write::Remove, Outcome::Unknown).unwrap();
        books.saw("a", seen("id", "c1", 5)).unwrap();
        books.saw("a", None).unwrap();
        assert!(books.saw("a", seen("id", "c1", 5)).is_err(), "it does not come back");

        let mut books = Books::default();
        books.told("a", create("c1"), Outcome::Unknown).unwrap();
        books.told("a", create("c2"), acknowledged("second")).unwrap();
        books.told("a", Write::Remove, acknowledged("")).unwrap();
        books.saw("a", None).unwrap();
        books.saw("a", seen("first", "c1", 9)).unwrap();
        assert!(books.told("a", create("c3"), acknowledged("third")).is_err(), "there is one already");
    }

    #[test]
    fn a_list_has_each_name_once_and_none_that_nobody_wrote() {
        let list = |of: &[(&str, usize)]| {
            of.iter().map(|(name, n)| ((*name).to_owned(), vec![seen("id", "c1", 5).unwrap(); *n])).collect()
        };
        one().saw_all(list(&[("a", 1)])).unwrap();
        for wrong in [vec![], vec![("a", 2)], vec![("a", 1), ("b", 1)]] {
            assert!(one().saw_all(list(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
