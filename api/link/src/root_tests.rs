//! Given roots, of every kind that openssl makes, and chains through a cross-signed root.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, PKCS_ED25519, date_time_ymd};

use super::*;

const NOW: i64 = 1_800_000_000;

/// P-521, RSA of 2048 and 1024 bits, SEC 1 and encrypted: made by openssl, as rcgen makes none of them.
#[path = "root_samples.rs"]
mod samples;

fn root(change: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "mine");
    params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc.");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
    change(&mut params);
    params.self_signed(key).unwrap().pem()
}

#[test]
fn given_roots_are_checked() {
    let key = KeyPair::generate().unwrap();
    let good = root(|_| {}, &key);
    let given = check_root(&format!("text before\n{good}"), &key.serialize_pem(), NOW).unwrap();
    assert_eq!(
        (given.cert_pem.as_str(), given.key_pem.as_str()),
        (good.as_str(), key.serialize_pem().as_str())
    );
    assert_eq!(check_root(&good, "", NOW).unwrap().key_pem, "");
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    check_root(&root(|_| {}, &p384), &p384.serialize_pem(), NOW).unwrap();

    let other = KeyPair::generate().unwrap();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&good, &key).unwrap();
    let intermediate = {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
        params.signed_by(&other, &issuer).unwrap().pem()
    };
    let soon = root(|params| params.not_after = date_time_ymd(2027, 1, 1), &key);
    let later = root(|params| params.not_before = date_time_ymd(2030, 1, 1), &key);
    let leaf = root(|params| params.is_ca = IsCa::ExplicitNoCa, &key);
    let pem = |key: &KeyPair| key.serialize_pem();
    for (cert, key, expect) in [
        ("", String::new(), "could not parse the desired CA certificate"),
        (&format!("{good}{good}"), pem(&key), "cannot contain multiple certificates"),
        (&good, pem(&other), "certificate key mismatch"),
        (&good, "junk".to_owned(), "malformed private key"),
        (&soon, pem(&key), "CA certificate expires too soon"),
        (&later, pem(&key), "not valid yet"),
        (&leaf, pem(&key), "CA:TRUE"),
        (&intermediate, pem(&other), "not signed by itself"),
        (&root(|_| {}, &ed), pem(&ed), "unknown or unsupported certificate public key algorithm"),
        (samples::P521_CERT, String::new(), "the curve must be P-256 or P-384"),
        (samples::RSA1024_CERT, String::new(), "at least 2048 bits"),
        (samples::RSA_CERT, samples::ENCRYPTED_KEY.to_owned(), "malformed private key: an unencrypted"),
    ] {
        let error = check_root(cert, &key, NOW).unwrap_err().to_string();
        assert!(error.contains(expect), "{error} instead of {expect}");
    }
}

#[test]
fn keys_in_openssls_forms_are_taken() {
    for (cert, key) in [(samples::RSA_CERT, samples::RSA_PKCS1_KEY), (samples::SEC1_CERT, samples::SEC1_KEY)]
    {
        let given = check_root(cert, key, NOW).unwrap();
        assert!(given.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        check_root(&given.cert_pem, &given.key_pem, NOW).unwrap();
    }
}

fn node(authority: &Authority, root_pem: &str) -> Result<Identity, crate::IdentityError> {
    let (csr, key) = new_csr().unwrap();
    let chain = authority.sign_node(&csr, "node1", Role::Manager, "cluster1", NOW).unwrap();
    Identity::new(chain, key, root_pem)
}

fn read(given: &Given) -> Authority {
    Authority::from_pem(&given.cert_pem, &given.key_pem).unwrap()
}

#[test]
fn through_a_cross_signed_root_both_roots_are_followed() {
    let roots: Vec<Given> =
        [(samples::RSA_CERT, samples::RSA_PKCS1_KEY), (samples::SEC1_CERT, samples::SEC1_KEY)]
            .into_iter()
            .map(|(cert, key)| check_root(cert, key, NOW).unwrap())
            .chain((0..2).map(|_| {
                let own = Authority::generate(NOW).unwrap();
                Given { cert_pem: own.cert_pem().to_owned(), key_pem: own.key_pem().to_owned() }
            }))
            .collect();
    for old in &roots {
        for new in roots.iter().filter(|new| *new != old) {
            let cross = read(old).cross_sign(&new.cert_pem).unwrap();
            let during = read(new).through(cross.as_str());
            for root in [old, new] {
                let identity = node(&during, &root.cert_pem).unwrap();
                let tls = identity.tls();
                let expect = issuer_of(&new.cert_pem).unwrap();
                assert_eq!((tls.issuer_subject, tls.issuer_public_key), expect);
                assert_eq!(tls.root_digest, crate::RootDigest::of_pem(&root.cert_pem).0);
            }
            assert!(node(&read(new), &old.cert_pem).is_err(), "the old root alone says nothing of it");
            assert!(node(&read(old), &new.cert_pem).is_err(), "the new root knows nothing of the old one");
        }
    }
}

#[test]
fn who_missed_the_end_of_a_rotation_follows_through_two() {
    let [first, second, third] = [(); 3].map(|()| Authority::generate(NOW).unwrap());
    let to_second = first.cross_sign(second.cert_pem()).unwrap();
    let to_third = second.cross_sign(third.cert_pem()).unwrap();
    let first_root = first.cert_pem().to_owned();
    let during = third.through(format!("{to_third}{to_second}"));
    node(&during, &first_root).unwrap();
    node(&during, second.cert_pem()).unwrap();
}

#[test]
fn an_issuer_that_is_oddly_encoded_is_not_signed_over() {
    let authority = Authority::generate(NOW).unwrap();
    let der = tls::certificates(authority.cert_pem()).unwrap().remove(0).to_vec();
    // The first of the two names is the issuer's: one part of it, whose kind and length are changed.
    let at = der.windows(5).position(|bytes| bytes == [0x30, 0x13, 0x31, 0x11, 0x30]).unwrap();
    for (kind, len) in [(0x31, 0x0f), (0xb1, 0x0f), (0x31, 0), (0xb1, 0)] {
        let mut odd = der.clone();
        (odd[at + 2], odd[at + 5]) = (kind, len);
        let odd = pem("CERTIFICATE", &odd);
        if let Ok(crossed) = authority.cross_sign(&odd) {
            assert_eq!(issuer_of(&crossed), issuer_of(&odd), "{kind:x} {len}");
        }
    }
}
