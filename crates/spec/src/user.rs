//! Users and groups by the texts of an image's `/etc/passwd` and `/etc/group`.

use robot_env_diag::{Error, Result};

use crate::ResolvedUser;

/// The greatest id that a container may use, as in Docker.
const GREATEST_ID: u32 = i32::MAX as u32;

struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// The user that `user` (`name|uid[:group|gid]`) and `group_add` (names or gids) stand for.
///
/// - A word of digits is a number and never a name; one that is too great is an error, not user 0.
/// - `passwd` and `group` are the files' bytes, empty where there is none. Lines that do not parse
///   are skipped; they need not be UTF-8.
/// - Without a group, the primary group is that of `passwd`, else 0, and the groups whose members
///   the user is among come along. With a group there is only that one.
/// - `additional_gids` has the primary group in front, so that a file's group permissions cannot be
///   escaped by leaving the group (CVE-2022-36109).
///
/// # Errors
/// `InvalidInput`: a name that is not in the files, or a number out of range.
pub fn resolve_user(
    user: Option<&str>,
    group_add: &[String],
    passwd: &[u8],
    group: &[u8],
) -> Result<ResolvedUser> {
    let text = user.unwrap_or_default();
    let (user_word, group_word) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };

    let user_id = if user_word.is_empty() { Some(0) } else { number(user_word, "user id")? };
    let entry = passwd_entries(passwd).find(|entry| match user_id {
        Some(uid) => entry.uid == uid,
        None => entry.name == user_word.as_bytes(),
    });
    let (uid, mut gid, home) = match (&entry, user_id) {
        (Some(entry), _) => (entry.uid, entry.gid, String::from_utf8_lossy(entry.home).into_owned()),
        (None, Some(uid)) => (uid, 0, String::new()),
        (None, None) => {
            return Err(Error::invalid(format!(
                "unable to find user {user_word}: no matching entries in passwd file"
            )));
        }
    };

    let mut further = Vec::new();
    if let Some(word) = group_word {
        gid = group_id(word, group)?;
    } else if let Some(entry) = &entry {
        let names_user = |g: &GroupEntry<'_>| {
            g.members.split(|&b| b == b',').any(|member| member.trim_ascii() == entry.name)
        };
        further.extend(group_entries(group).filter(names_user).map(|g| g.gid));
    }
    for word in group_add {
        further.push(group_id(word, group)?);
    }

    let mut additional_gids = vec![gid];
    for id in further {
        if !additional_gids.contains(&id) {
            additional_gids.push(id);
        }
    }
    Ok(ResolvedUser { uid, gid, additional_gids, home: if home.is_empty() { "/".into() } else { home } })
}

/// `Some` for a word of digits in range, `None` for a name.
fn number(word: &str, what: &str) -> Result<Option<u32>> {
    let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match word.parse::<u32>() {
        Ok(id) if id <= GREATEST_ID && !word.starts_with('+') => Ok(Some(id)),
        _ => Err(Error::invalid(format!("invalid {what} `{word}`: ids must be in range 0-{GREATEST_ID}"))),
    }
}

fn group_id(word: &str, group: &[u8]) -> Result<u32> {
    if let Some(gid) = number(word, "group id")? {
        return Ok(gid);
    }
    group_entries(group)
        .find(|entry| entry.name == word.as_bytes() && !word.is_empty())
        .map(|entry| entry.gid)
        .ok_or_else(|| {
            Error::invalid(format!("unable to find group {word}: no matching entries in group file"))
        })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty() && line[0] != b'#')
}

fn id(field: &[u8]) -> Option<u32> {
    if field.is_empty() || !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok().filter(|id| *id <= GREATEST_ID)
}

fn passwd_entries(text: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    lines(text).filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&b| b == b':').collect();
        let &[name, _, uid, gid, ..] = &fields[..] else { return None };
        Some(PasswdEntry {
            name,
            uid: id(uid)?,
            gid: id(gid)?,
            home: fields.get(5).copied().unwrap_or_default(),
        })
    })
}

fn group_entries(text: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(text).filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&b| b == b':').collect();
        let &[name, _, gid, ..] = &fields[..] else { return None };
        Some(GroupEntry { name, gid: id(gid)?, members: fields.get(3).copied().unwrap_or_default() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n# a comment\nbroken line\nbad:x:no:1::/bad:\n\
        caf\xe9:x:900:900:\xff\xfe:/home/caf\xe9:\nros:x:1000:1001:ROS:/home/ros:/bin/bash\n\
        1234:x:77:77::/digits:\nshort:x:5:6\nhuge:x:4294967295:1::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nvideo:x:44:ros,other\naudio:x:29: ros \ndialout:x:20:other\n\
        ros:x:1001:\ncaf\xe9:x:900:\n55:x:66:\n+nis:::\nplugdev:x:46:ros\n";

    fn resolve(user: &str, add: &[&str]) -> Result<ResolvedUser, String> {
        let add: Vec<String> = add.iter().map(|&g| g.to_owned()).collect();
        resolve_user(Some(user).filter(|u| !u.is_empty()), &add, PASSWD, GROUP).map_err(|e| e.to_string())
    }

    #[test]
    fn users_as_docker_resolves_them() {
        type Words = &'static [&'static str];
        type Want = (u32, u32, &'static [u32], &'static str);
        let cases: [(&str, Words, Want); 14] = [
            ("", &[], (0, 0, &[0], "/root")),
            (":", &[], (0, 0, &[0], "/root")),
            ("root", &[], (0, 0, &[0], "/root")),
            ("ros", &[], (1000, 1001, &[1001, 44, 29, 46], "/home/ros")),
            ("1000", &[], (1000, 1001, &[1001, 44, 29, 46], "/home/ros")),
            ("001000", &[], (1000, 1001, &[1001, 44, 29, 46], "/home/ros")),
            ("ros:video", &[], (1000, 44, &[44], "/home/ros")),
            ("ros:", &[], (1000, 1001, &[1001, 44, 29, 46], "/home/ros")),
            (":video", &[], (0, 44, &[44], "/root")),
            ("4242", &[], (4242, 0, &[0], "/")),
            ("4242:4343", &["dialout", "20", "7"], (4242, 4343, &[4343, 20, 7], "/")),
            ("short", &[], (5, 6, &[6], "/")),
            // Digits are a number even where a user or a group is named so.
            ("1234", &[], (1234, 0, &[0], "/")),
            ("ros:55", &[], (1000, 55, &[55], "/home/ros")),
        ];
        for (user, add, (uid, gid, gids, home)) in cases {
            let want = ResolvedUser { uid, gid, additional_gids: gids.to_vec(), home: home.into() };
            assert_eq!(resolve(user, add), Ok(want), "{user} {add:?}");
        }
    }

    #[test]
    fn what_does_not_exist_or_fit_is_an_error() {
        let cases: [(&str, &[&str], &str); 10] = [
            ("nobody", &[], "unable to find user nobody: no matching entries in passwd file"),
            ("bad", &[], "unable to find user bad: no matching entries in passwd file"),
            ("huge", &[], "unable to find user huge: no matching entries in passwd file"),
            ("ros:wheel", &[], "unable to find group wheel: no matching entries in group file"),
            ("ros", &["wheel"], "unable to find group wheel: no matching entries in group file"),
            ("ros", &[""], "unable to find group : no matching entries in group file"),
            ("4294967296", &[], "invalid user id `4294967296`: ids must be in range 0-2147483647"),
            ("2147483648", &[], "invalid user id `2147483648`: ids must be in range 0-2147483647"),
            ("-1", &[], "invalid user id `-1`: ids must be in range 0-2147483647"),
            (
                "1:99999999999999999999",
                &[],
                "invalid group id `99999999999999999999`: ids must be in range 0-2147483647",
            ),
        ];
        for (user, add, want) in cases {
            assert_eq!(resolve(user, add), Err(want.to_owned()), "{user} {add:?}");
        }
    }

    #[test]
    fn without_files_only_numbers_work() {
        let user = resolve_user(Some("12:13"), &[], b"", b"").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (12, 13, "/"));
        assert!(resolve_user(Some("root"), &[], b"", b"").is_err());
        assert_eq!(resolve_user(None, &[], b"", b"").unwrap().uid, 0);
    }

    #[test]
    fn names_that_are_not_utf8_are_skipped_over() {
        let home = resolve_user(Some("900"), &[], PASSWD, GROUP).unwrap().home;
        assert_eq!(home, "/home/caf\u{fffd}");
    }
}
