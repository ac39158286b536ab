//! Images in all their forms, and layers that stack as their builders meant them to.

#[path = "support/lab.rs"]
mod lab;

use std::io::Cursor;

use lab::{File, archive, busybox_tar, gzip, image_config, lab, sha256, shell, strings, tar};
use serde_json::json;
use skep_runtime::{ContainerSpec, ImageError};

fn layers() -> Vec<Vec<u8>> {
    vec![
        busybox_tar(),
        tar(&[
            File::Dir("d", 0o755),
            File::Text("d/gone", "1"),
            File::Text("d/kept", "1"),
            File::Dir("o", 0o755),
            File::Text("o/old", "1"),
            File::Link("lnk", "/d/kept"),
        ]),
        tar(&[
            File::Dir("d", 0o705),
            File::Text("d/.wh.gone", ""),
            File::Dir("o", 0o755),
            File::Text("o/.wh..wh..opq", ""),
            File::Text("o/new", "1"),
            File::Text("etc/passwd", "late:x:5:6::/:/bin/sh\n"),
        ]),
    ]
}

fn config() -> serde_json::Value {
    json!({
        "Entrypoint": ["sh", "-c"], "Cmd": ["ls /d /o; cat /lnk"], "Env": ["A=1"], "User": "late",
        "WorkingDir": "/d", "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/vol": {} },
        "StopSignal": "SIGQUIT", "Labels": { "l": "v" },
    })
}

/// As `docker save` of Docker 20.10: layers first, the manifest at the end, equal layers as links.
fn docker_save(names: &[&str]) -> Vec<u8> {
    let layers = layers();
    let config = image_config(&layers, config());
    let hex = sha256(config.as_bytes());
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        files.push((format!("{n}{}/layer.tar", "0".repeat(63)), layer.clone()));
    }
    files.push((format!("{hex}.json"), config.into_bytes()));
    let names_of_layers: Vec<_> = files[..layers.len()].iter().map(|f| f.0.clone()).collect();
    let manifest = json!([{ "Config": format!("{hex}.json"), "RepoTags": names, "Layers": names_of_layers }]);
    files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
    archive(&files)
}

/// An OCI layout with compressed layers, for this and another platform.
fn oci(name: &str, spoil: bool) -> Vec<u8> {
    let layers = layers();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut blob = |mut bytes: Vec<u8>, spoil: bool| {
        let digest = format!("sha256:{}", sha256(&bytes));
        let size = bytes.len();
        if spoil {
            bytes[20] ^= 1;
        }
        files.push((format!("blobs/sha256/{}", &digest[7..]), bytes));
        json!({ "digest": digest, "size": size })
    };
    let descriptors: Vec<_> = layers.iter().map(|l| blob(gzip(l), spoil)).collect();
    let config = blob(image_config(&layers, config()).into_bytes(), false);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": descriptors });
    let mut ours = blob(manifest.to_string().into_bytes(), false);
    ours["platform"] = json!({ "os": "linux", "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" } });
    let other = json!({
        "digest": format!("sha256:{}", "0".repeat(64)), "size": 1,
        "platform": { "os": "linux", "architecture": "mips" },
    });
    let nested = json!({ "schemaVersion": 2, "manifests": [other, ours] });
    let mut top = blob(nested.to_string().into_bytes(), false);
    top["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    top["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [top] });
    files.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    archive(&files)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_archive_forms_make_the_same_image() {
    let Some(lab) = lab().await else { return };
    let loaded =
        lab.engine.load(Cursor::new(gzip(&docker_save(&["team/app:1", "team/app:2"])))).await.unwrap();
    let names: Vec<_> = loaded.iter().map(|l| l.reference.clone().unwrap()).collect();
    assert_eq!(names, ["team/app:1", "team/app:2"]);
    let again = lab.engine.load(Cursor::new(oci("docker.io/library/other:3", false))).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].reference.as_deref(), &again[0].id), (Some("other:3"), &loaded[0].id));

    let info = lab.engine.find_image("team/app:2").unwrap();
    assert_eq!(info.references, ["other:3", "team/app:1", "team/app:2"]);
    assert_eq!((info.config.user.as_str(), info.config.workdir.as_str()), ("late", "/d"));
    assert_eq!(info.config.exposed_ports, ["80/tcp"]);
    assert!(info.size > 1_000_000 && info.created.starts_with("2026"), "{info:?}");
    let digest = info.digest.clone().unwrap();
    for name in ["docker.io/library/other:3", &info.id, &info.id[7..19], &format!("other:3@{digest}")] {
        assert_eq!(lab.engine.find_image(name).map(|i| i.id).as_ref(), Some(&info.id), "{name}");
    }
    assert!(lab.engine.find_image(&format!("other:3@sha256:{}", "0".repeat(64))).is_none());

    let spec = ContainerSpec { args: None, ..shell("a", "") };
    let spec = ContainerSpec { image: "other:3".to_owned(), ..spec };
    let (code, output) = lab.run(spec).await;
    assert_eq!(output, "/d:\nkept\n\n/o:\nnew\n1", "{code}");
    assert_eq!(lab.engine.list()[0].stop_signal, 3);
    let script = ["id -u; id -g; stat -c %a /d; readlink /lnk; echo $A; mount | grep -c ' /vol '"];
    let spec = ContainerSpec { image: "other:3".to_owned(), args: Some(strings(&script)), ..shell("b", "") };
    assert_eq!(lab.run(spec).await.1, "5\n6\n705\n/d/kept\n1\n1\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_survive_a_restart_and_go_with_their_last_name() {
    let Some(lab) = lab().await else { return };
    lab.engine.load(Cursor::new(docker_save(&["x:1", "x:2"]))).await.unwrap();
    let again = skep_runtime::Engine::open(lab.config.clone()).await.unwrap();
    assert_eq!(again.images(), lab.engine.images());
    drop(again);
    let layers = || std::fs::read_dir(lab.config.state_dir.join("layers/sha256")).unwrap().count();
    assert_eq!(layers(), 3, "the lowest is shared");
    lab.engine.create(ContainerSpec { image: "x:1".to_owned(), ..shell("a", "") }).await.unwrap();
    assert!(matches!(lab.engine.remove_image("x:1").await, Err(ImageError::InUse { .. })));
    lab.engine.remove("a").await.unwrap();
    lab.engine.remove_image("x:1").await.unwrap();
    assert!(lab.engine.find_image("x:1").is_none() && lab.engine.find_image("x:2").is_some());
    lab.engine.remove_image("x:2").await.unwrap();
    assert_eq!(layers(), 1);
    assert!(matches!(lab.engine.remove_image("x:2").await, Err(ImageError::NoSuchImage(_))));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_archives_change_nothing() {
    let Some(lab) = lab().await else { return };
    let before = lab.engine.images();
    let whole = docker_save(&["bad:1"]);
    let cut = whole[..whole.len() / 2].to_vec();
    let mut evil = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.as_mut_bytes()[..9].copy_from_slice(b"../escape");
    header.set_cksum();
    evil.append(&header, &b"x"[..]).unwrap();
    let evil = evil.into_inner().unwrap();
    for bad in [b"no archive".to_vec(), Vec::new(), cut, oci("bad:1", true), evil.clone()] {
        let error = lab.engine.load(Cursor::new(bad)).await.unwrap_err();
        assert!(matches!(error, ImageError::Invalid(_)), "{error:?}");
    }
    let changes = skep_runtime::ImageConfigChanges::default();
    let error = lab.engine.import_rootfs(Cursor::new(evil), "evil", changes).await.unwrap_err();
    assert!(error.to_string().contains("path leads out of the layer"), "{error}");
    assert_eq!(lab.engine.images(), before);
    assert_eq!(std::fs::read_dir(lab.config.state_dir.join("tmp")).unwrap().count(), 0);
    assert!(!lab.config.state_dir.join("escape").exists());
    lab.finish().await;
}
