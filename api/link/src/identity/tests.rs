//! Identities on disk: saved, cut off by a crash, damaged, sealed; and replaced while they are in use.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::{Authority, new_csr};

const NOW: i64 = 1_780_000_000;

fn identity(authority: &Authority, node_id: &str) -> Identity {
    let (csr, key) = new_csr().unwrap();
    let cert = authority.sign_node(&csr, node_id, Role::Worker, "cluster1", NOW).unwrap();
    Identity::new(cert, key, authority.cert_pem()).unwrap()
}

fn damage(dir: &Path) -> String {
    let error = Identity::load(dir).unwrap_err();
    let IdentityError::Damaged { path, .. } = error else { panic!("{error}") };
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn an_identity_is_saved_and_loaded() {
    let authority = Authority::generate(NOW).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("certificates");
    assert!(Identity::load(&dir).unwrap().is_none());
    for name in ["node1", "node2"] {
        identity(&authority, name).save(&dir).unwrap();
        let loaded = Identity::load(&dir).unwrap().unwrap();
        assert_eq!(loaded.node_id(), name);
        assert_eq!(loaded.cluster_id(), "cluster1");
        assert_eq!(loaded.role(), Role::Worker);
        assert_eq!(loaded.root_pem(), authority.cert_pem());
        assert_eq!(loaded.validity().0, NOW - 3600);
    }
    assert_eq!(fs::metadata(dir.join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
}

#[test]
fn a_save_cut_off_by_a_crash_leaves_one_whole_identity() {
    let authority = Authority::generate(NOW).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let (dir, other) = (temp.path().join("a"), temp.path().join("b"));
    identity(&authority, "old").save(&dir).unwrap();
    identity(&authority, "new").save(&other).unwrap();

    // Before the set counts: half written, and ignored.
    fs::create_dir(dir.join("next.tmp")).unwrap();
    fs::copy(other.join(KEY_FILE), dir.join("next.tmp").join(KEY_FILE)).unwrap();
    assert_eq!(Identity::load(&dir).unwrap().unwrap().node_id(), "old");

    // After: one file was moved, the rest follow.
    fs::create_dir(dir.join("next")).unwrap();
    fs::copy(other.join(KEY_FILE), dir.join(KEY_FILE)).unwrap();
    fs::copy(other.join(CERT_FILE), dir.join("next").join(CERT_FILE)).unwrap();
    fs::copy(other.join(ROOT_FILE), dir.join("next").join(ROOT_FILE)).unwrap();
    assert_eq!(Identity::load(&dir).unwrap().unwrap().node_id(), "new");
    identity(&authority, "newer").save(&dir).unwrap();
    assert_eq!(Identity::load(&dir).unwrap().unwrap().node_id(), "newer");
}

/// Turns all bits over, while it is told to.
struct Turning(bool);

impl KeyBox for Turning {
    fn seal(&self, key: &[u8]) -> Result<Option<(Vec<u8>, Held)>, String> {
        Ok(self.0.then(|| (key.iter().map(|byte| !byte).collect(), Arc::new(()) as Held)))
    }

    fn open(&self, sealed: &[u8]) -> Result<(Vec<u8>, Held), String> {
        Ok((sealed.iter().map(|byte| !byte).collect(), Arc::new(())))
    }
}

#[test]
fn a_key_is_sealed_and_opened_and_never_on_disk_meanwhile() {
    let authority = Authority::generate(NOW).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let first = identity(&authority, "node1");
    first.save_with(dir, Some(&Turning(true))).unwrap();
    assert!(Identity::is_sealed(dir).unwrap());
    for file in fs::read_dir(dir).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("PRIVATE"), "{text}");
    }
    assert!(matches!(Identity::load(dir), Err(IdentityError::Sealed { .. })));
    assert_eq!(Identity::node_id_in(dir).unwrap().as_deref(), Some("node1"));
    let loaded = Identity::load_with(dir, Some(&Turning(true))).unwrap().unwrap();
    assert_eq!(loaded.fingerprint(), first.fingerprint());
    let text = fs::read_to_string(dir.join(KEY_FILE)).unwrap();
    fs::write(dir.join(KEY_FILE), &text[..text.len() / 2]).unwrap();
    let error = Identity::load_with(dir, Some(&Turning(true))).unwrap_err();
    assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
    loaded.save_with(dir, Some(&Turning(false))).unwrap();
    assert!(!Identity::is_sealed(dir).unwrap());
    Identity::load(dir).unwrap().unwrap();
}

#[test]
fn a_key_that_was_on_an_open_disk_is_known_as_such_until_it_is_replaced() {
    let authority = Authority::generate(NOW).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let (open, locked) = (Turning(false), Turning(true));
    let was_open = || Identity::load_with(dir, Some(&locked)).unwrap().unwrap().key_was_open();

    let node = identity(&authority, "node1");
    node.save_with(dir, Some(&open)).unwrap();
    assert!(was_open());
    // Sealed later, and read again after a crash: it is no more secret than it was.
    node.save_with(dir, Some(&locked)).unwrap();
    assert!(was_open());
    let again = Identity::load_with(dir, Some(&locked)).unwrap().unwrap();
    again.under(authority.cert_pem()).unwrap().save_with(dir, Some(&locked)).unwrap();
    assert!(was_open(), "the same key under another root");

    again.replace(&identity(&authority, "node1"));
    assert!(!again.key_was_open());
    again.save_with(dir, Some(&locked)).unwrap();
    assert!(!was_open());
}

#[test]
fn damage_names_the_file() {
    let authority = Authority::generate(NOW).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    for name in [CERT_FILE, KEY_FILE, ROOT_FILE] {
        identity(&authority, "node1").save(dir).unwrap();
        let text = fs::read_to_string(dir.join(name)).unwrap();
        fs::write(dir.join(name), &text[..text.len() / 2]).unwrap();
        assert_eq!(damage(dir), name, "cut");
        fs::write(dir.join(name), [0xff; 100]).unwrap();
        assert_eq!(damage(dir), name, "no text");
        fs::remove_file(dir.join(name)).unwrap();
        assert_eq!(damage(dir), name, "missing");
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let (authority, foreign) = (Authority::generate(NOW).unwrap(), Authority::generate(NOW).unwrap());
    let (csr, key) = new_csr().unwrap();
    let (_, other_key) = new_csr().unwrap();
    let cert = authority.sign_node(&csr, "node1", Role::Worker, "cluster1", NOW).unwrap();
    let check = |key: &str, root: &str| Identity::new(cert.as_str(), key, root).unwrap_err();
    assert!(matches!(check(&other_key, authority.cert_pem()), IdentityError::KeyMismatch));
    assert!(matches!(check(&key, foreign.cert_pem()), IdentityError::NotSigned(_)));
    assert!(matches!(
        Identity::new(authority.cert_pem(), authority.key_pem(), authority.cert_pem()).unwrap_err(),
        IdentityError::Certificate(_)
    ));
}

#[test]
fn replacing_reaches_clones_and_nothing_leaks() {
    let authority = Authority::generate(NOW).unwrap();
    let first = identity(&authority, "node1");
    let clone = first.clone();
    first.replace(&identity(&authority, "node2"));
    assert_eq!(clone.node_id(), "node2");
    assert!(!format!("{clone:?}").contains("PRIVATE"));
}
