//! The image of sandboxes, made here of one file: a program that waits for its end.

use serde_json::json;
use sha2::{Digest, Sha256};

/// The tag tells the program's versions apart.
pub(super) const IMAGE: &str = "skep/sandbox:1";
const PROGRAM: &str = "pause";

/// A whole program: waits for signals, for ever.
fn program() -> Option<Vec<u8>> {
    /// After the ELF header and the one program header.
    const CODE_AT: u64 = 64 + 56;
    const LOADED_AT: u64 = 0x40_0000;
    let (machine, code): (u16, &[u8]) = match std::env::consts::ARCH {
        // again: mov eax, 34 (pause); syscall; jmp again
        "x86_64" => (62, &[0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]),
        // mov x8, 73 (ppoll); again: mov x0..x4, 0; svc 0; b again
        "aarch64" => (
            183,
            &[
                0x28, 0x09, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80,
                0xd2, 0x03, 0x00, 0x80, 0xd2, 0x04, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xfa, 0xff,
                0xff, 0x17,
            ],
        ),
        _ => return None,
    };
    let len = CODE_AT + u64::try_from(code.len()).ok()?;
    // 64 bits, little endian, version 1; then executable, the machine, version 1.
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    for value in [LOADED_AT + CODE_AT, 64, 0] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    // Sizes of the header, of a program header, and how many; no sections.
    for value in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(value.to_le_bytes());
    }
    // One segment to load, readable and executable: the whole file.
    elf.extend([1_u32, 5].iter().flat_map(|value| value.to_le_bytes()));
    for value in [0, LOADED_AT, LOADED_AT, len, len, 0x1000] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(code);
    Some(elf)
}

/// The image in the form that `docker save` writes and every Docker Engine loads.
pub(super) fn archive() -> std::io::Result<Vec<u8>> {
    let program = program().ok_or_else(|| {
        let words = format!("no sandbox for the architecture {}", std::env::consts::ARCH);
        std::io::Error::new(std::io::ErrorKind::Unsupported, words)
    })?;
    let layer = tar(&[(PROGRAM, &program)])?;
    let hex =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let arch = if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" };
    let config = json!({
        "architecture": arch,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": [format!("/{PROGRAM}")] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))] },
    })
    .to_string();
    let config_name = format!("{}.json", hex(config.as_bytes()));
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]).to_string();
    tar(&[(&config_name, config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())])
}

fn tar(files: &[(&str, &[u8])]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o555);
        header.set_size(u64::try_from(bytes.len()).map_err(std::io::Error::other)?);
        tar.append_data(&mut header, name, *bytes)?;
    }
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{fs::PermissionsExt, process::ExitStatusExt},
        process::Command,
    };

    use super::*;

    #[test]
    fn the_program_waits_until_it_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PROGRAM);
        std::fs::write(&path, program().unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).spawn().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
