//! Finds the user, group and further groups of a container in its image's account files.

use serde_json::{Value, json};

/// Who the container's command runs as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The primary group included, so that membership alone never denies.
    pub(crate) groups: Vec<u32>,
}

impl User {
    pub(crate) fn to_oci(&self) -> Value {
        json!({ "uid": self.uid, "gid": self.gid, "additionalGids": self.groups })
    }
}

/// Reads `user` (`name`, `uid`, either with `:group`; empty is root) with the image's `/etc/passwd` and
/// `/etc/group`. The words of the errors are Docker's.
pub(crate) fn find(user: &str, groups: &[String], passwd: &str, group: &str) -> Result<User, String> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.len() >= 4 && (f[0] == user || number.is_some() && f[2].parse::<u32>().ok() == number));
    let (name, uid, gid) = match (&entry, number) {
        (Some(fields), _) => {
            let read = |n: &str| n.parse::<u32>().map_err(|_| format!("passwd entry of {user} is damaged"));
            (Some(fields[0]), read(fields[2])?, read(fields[3])?)
        }
        (None, Some(uid)) => (None, uid, 0),
        (None, None) => {
            return Err(format!("unable to find user {user}: no matching entries in passwd file"));
        }
    };
    let gid = match wanted_group {
        Some(wanted) => find_group(wanted, group)?,
        None => gid,
    };
    let mut all = vec![gid];
    // With a group asked for by name, membership in others does not come along.
    if let (Some(name), None) = (name, wanted_group) {
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if fields.len() >= 4 && fields[3].split(',').any(|member| member == name) {
                all.extend(fields[2].parse::<u32>().ok());
            }
        }
    }
    for wanted in groups {
        all.push(find_group(wanted, group)?);
    }
    let mut unique = Vec::new();
    for gid in all {
        if !unique.contains(&gid) {
            unique.push(gid);
        }
    }
    Ok(User { uid, gid, groups: unique })
}

fn find_group(wanted: &str, group: &str) -> Result<u32, String> {
    let named = group.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 3 && fields[0] == wanted).then(|| fields[2].parse::<u32>().ok())?
    });
    named
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n";
        let group = "root:x:0:\nweb:x:34:\ndisk:x:6:root,web\n";
        let check = |user: &str, extra: &[&str]| {
            let extra: Vec<String> = extra.iter().map(|g| (*g).to_owned()).collect();
            find(user, &extra, passwd, group).map(|u| (u.uid, u.gid, u.groups))
        };
        assert_eq!(check("", &[]), Ok((0, 0, vec![0, 6])));
        assert_eq!(check("web", &[]), Ok((33, 34, vec![34, 6])));
        assert_eq!(check("33", &["disk", "77"]), Ok((33, 34, vec![34, 6, 77])));
        assert_eq!(check("web:disk", &[]), Ok((33, 6, vec![6])));
        assert_eq!(check("1000", &[]), Ok((1000, 0, vec![0])));
        assert_eq!(check("1000:1001", &[]), Ok((1000, 1001, vec![1001])));
        assert_eq!(
            check("nobody", &[]).unwrap_err(),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(
            check("web:x", &[]).unwrap_err(),
            "unable to find group x: no matching entries in group file"
        );
    }
}
