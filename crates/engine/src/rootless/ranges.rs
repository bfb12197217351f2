//! Subordinate ids: `/etc/subuid` and `/etc/subgid` (subuid(5)).

use std::path::Path;

use robot_env_sys::namespace::IdRange;

/// A longer file is not read.
const LIMIT: u64 = 16 << 20;
/// What the kernel takes in one map (340 lines, user_namespaces(7)).
const LINES: usize = 340;

/// The text of a file of the host's; empty where there is none.
pub(crate) fn read(path: &str) -> String {
    let bytes = match std::fs::metadata(path) {
        Ok(stat) if stat.is_file() && stat.len() <= LIMIT => std::fs::read(Path::new(path)),
        _ => return String::new(),
    };
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// The name of a user in the text of `/etc/passwd`.
pub(super) fn name_of(passwd: &str, user: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(user) && !name.is_empty()).then_some(name)
    })
}

/// All ranges in the text of a file: owner (a name or a number), first id and count. Lines that are none
/// are left out.
pub(crate) fn all(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        if fields.next().is_some() {
            return None;
        }
        let (first, count): (u32, u32) = (first.trim().parse().ok()?, count.trim().parse().ok()?);
        // The last id of all means "none" to the kernel.
        (count > 0 && first.checked_add(count).is_some()).then_some((owner, first, count))
    })
}

/// The ranges of a user, by name and by number, in the order of the file: first id and count.
pub(super) fn of_user(text: &str, name: Option<&str>, user: u32) -> Vec<(u32, u32)> {
    let number = user.to_string();
    let own = all(text).filter(|(owner, ..)| Some(*owner) == name || *owner == number);
    own.map(|(_, first, count)| (first, count)).collect()
}

/// The first id from which on nobody has any, by the texts of both files.
pub(super) fn first_free(users: &str, groups: &str) -> u32 {
    let ends = all(users).chain(all(groups)).map(|(_, first, count)| first + count);
    ends.filter(|end| *end < 0x6FFF_0000).max().unwrap_or(0).max(100_000)
}

/// The map: `own` is 0 inside, the ranges follow from 1 on. What overlaps with an earlier range, or
/// with `own`, is cut out: the kernel refuses a map in which an id stands twice.
pub(super) fn map(own: u32, ranges: &[(u32, u32)]) -> Vec<IdRange> {
    let mut map = vec![IdRange { inside: 0, outside: own, count: 1 }];
    let mut inside: u32 = 1;
    for (first, count) in ranges {
        let mut at = u64::from(*first);
        let end = at + u64::from(*count);
        while at < end {
            let overlap = map.iter().find(|r| {
                let start = u64::from(r.outside);
                (start..start + u64::from(r.count)).contains(&at)
            });
            if let Some(range) = overlap {
                at = u64::from(range.outside) + u64::from(range.count);
                continue;
            }
            let next = map.iter().map(|r| u64::from(r.outside)).filter(|start| *start > at).min();
            let stop = end.min(next.unwrap_or(end));
            // Inside, too, the last id of all stays free.
            let count = ((stop - at) as u32).min(u32::MAX - inside);
            if count == 0 || map.len() == LINES {
                return map;
            }
            map.push(IdRange { inside, outside: at as u32, count });
            inside += count;
            at = stop;
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_number() {
        let text = "ada:100000:65536\nbob:165536:65536\n1000:300000:10\n# ada:1:1\nada:x:3\nada:5\nada:1:2:3\n\
            ada:0:0\nada:4294967295:1\nada:4294967290:9\n  ada:500000:5\nada2:7:7\n:8:8\n";
        for (name, user, expected) in [
            (Some("ada"), 1000, vec![(100_000, 65536), (300_000, 10), (500_000, 5)]),
            (Some("bob"), 1001, vec![(165_536, 65536)]),
            (None, 1000, vec![(300_000, 10)]),
            (None, 1002, vec![]),
            (Some("eve"), 1002, vec![]),
        ] {
            assert_eq!(of_user(text, name, user), expected, "{name:?} {user}");
        }
    }

    #[test]
    fn the_next_range_is_behind_all_others() {
        for (users, groups, expected) in [
            ("", "", 100_000),
            ("ada:100000:65536\n", "bob:165536:65536\n", 231_072),
            ("ada:5:5\nada:x:900000\nada:4294967290:9\n", "", 100_000),
            ("ada:100000:65536\npool:1879048191:10\n", "", 165_536),
        ] {
            assert_eq!(first_free(users, groups), expected, "{users:?} {groups:?}");
        }
    }

    #[test]
    fn names_come_from_passwd() {
        let text = "root:x:0:0::/root:/bin/sh\nbroken\n:x:7:7::/:/\nada:x:1000:1000::/home/ada:/bin/sh\n";
        for (user, name) in [(0, Some("root")), (1000, Some("ada")), (7, None), (5, None)] {
            assert_eq!(name_of(text, user), name);
        }
    }

    #[test]
    fn no_id_stands_twice_in_a_map() {
        type Lines = Vec<(u32, u32, u32)>;
        type Case<'a> = (u32, &'a [(u32, u32)], Lines);
        let cases: [Case<'_>; 8] = [
            (1000, &[], vec![(0, 1000, 1)]),
            (1000, &[(100_000, 65536)], vec![(0, 1000, 1), (1, 100_000, 65536)]),
            (1000, &[(100, 5), (200, 5)], vec![(0, 1000, 1), (1, 100, 5), (6, 200, 5)]),
            (1000, &[(100, 5), (100, 5)], vec![(0, 1000, 1), (1, 100, 5)]),
            (1000, &[(100, 5), (98, 10)], vec![(0, 1000, 1), (1, 100, 5), (6, 98, 2), (8, 105, 3)]),
            (1000, &[(999, 3)], vec![(0, 1000, 1), (1, 999, 1), (2, 1001, 1)]),
            (0, &[(1, u32::MAX - 1), (0, u32::MAX)], vec![(0, 0, 1), (1, 1, u32::MAX - 1)]),
            (7, &[(7, 1)], vec![(0, 7, 1)]),
        ];
        for (own, ranges, expected) in cases {
            let lines: Lines = map(own, ranges).iter().map(|r| (r.inside, r.outside, r.count)).collect();
            assert_eq!(lines, expected, "{own} {ranges:?}");
        }
        let many: Vec<(u32, u32)> = (0..1000).map(|n| (10_000 + 2 * n, 1)).collect();
        assert_eq!(map(1, &many).len(), LINES);
    }
}
