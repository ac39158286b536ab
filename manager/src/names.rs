//! Names for services that were given none, as Docker invents them.

use skep_api::Id;

const LEFT: [&str; 24] = [
    "amber", "brave", "bright", "busy", "calm", "clever", "dancing", "eager", "early", "gentle", "golden",
    "happy", "honest", "keen", "lively", "lucky", "merry", "nimble", "patient", "quick", "quiet", "sunny",
    "swift", "warm",
];
const RIGHT: [&str; 24] = [
    "apiary",
    "aster",
    "blossom",
    "bumblebee",
    "clover",
    "comb",
    "drone",
    "foxglove",
    "garden",
    "heather",
    "hive",
    "honey",
    "keeper",
    "lavender",
    "linden",
    "meadow",
    "nectar",
    "orchard",
    "pollen",
    "propolis",
    "queen",
    "sage",
    "thyme",
    "willow",
];

/// A name from a fresh id: two words, and four digits so that two services rarely clash.
pub(crate) fn invent(id: Id) -> String {
    let mut rest = id.0;
    let mut draw = |n: u128| {
        let drawn = usize::try_from(rest % n).expect("less than n, which is small");
        rest /= n;
        drawn
    };
    let (left, right, number) = (draw(24), draw(24), draw(10_000));
    format!("{}_{}{number:04}", LEFT[left], RIGHT[right])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_ids() {
        assert_eq!(invent(Id(0)), "amber_apiary0000");
        assert_eq!(invent(Id(1 + 24 + 576)), "brave_aster0001");
    }
}
