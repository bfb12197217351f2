//! The host's user inside any image, without building one.
//!
//! The image's account files are edited as texts, in the container's own layer: the user's id and
//! name are then the same on both sides. Doing it again changes nothing.

use crate::root::HostRoot;
use crate::session::Session;

/// A user of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostUser {
    /// The login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
    /// Groups by name and number, the primary one too.
    pub groups: Vec<(String, u32)>,
}

impl HostUser {
    /// The user of a session; below `sudo`, the one who called it.
    ///
    /// Accounts that only a name service has are known by the session's variables.
    pub fn of(root: &HostRoot, session: &Session) -> HostUser {
        let number = |name: &str| session.get(name).and_then(|text| text.parse::<u32>().ok());
        let by_sudo = if session.uid == 0 { number("SUDO_UID").zip(number("SUDO_GID")) } else { None };
        let (uid, gid) = by_sudo.unwrap_or((session.uid, session.gid));
        let passwd = root.text("/etc/passwd").unwrap_or_default();
        let group = root.text("/etc/group").unwrap_or_default();
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let entry = passwd.lines().map(fields).find(|f| f.len() >= 7 && f[2] == uid.to_string());
        let name = match (&entry, by_sudo) {
            (Some(fields), _) => fields[0].clone(),
            (None, Some(_)) => session.get("SUDO_USER").unwrap_or("user").to_owned(),
            (None, None) => {
                session.get("USER").or_else(|| session.get("LOGNAME")).unwrap_or("user").to_owned()
            }
        };
        let of_entry =
            |at: usize| entry.as_ref().map(|fields| fields[at].clone()).filter(|text| !text.is_empty());
        let home = of_entry(5)
            .or_else(|| session.get("HOME").map(str::to_owned))
            .unwrap_or_else(|| format!("/home/{name}"));
        let shell = of_entry(6)
            .or_else(|| session.get("SHELL").map(str::to_owned))
            .unwrap_or_else(|| "/bin/sh".into());
        let mut ids = vec![gid];
        if by_sudo.is_none() {
            ids.extend(&session.groups);
        }
        let mut groups: Vec<(String, u32)> = Vec::new();
        for fields in group.lines().map(fields).filter(|fields| fields.len() >= 4) {
            let Ok(id) = fields[2].parse::<u32>() else { continue };
            if ids.contains(&id) || fields[3].split(',').any(|member| member == name) {
                groups.push((fields[0].clone(), id));
            }
        }
        for id in ids {
            if !groups.iter().any(|(_, had)| *had == id) {
                groups.push((if id == gid { name.clone() } else { format!("group-{id}") }, id));
            }
        }
        // Root's groups are no affair of a container's.
        groups.retain(|(_, id)| *id != 0 || gid == 0);
        HostUser { name, uid, gid, home, shell, groups }
    }
}

/// The texts of `/etc/passwd`, `/etc/group` and `/etc/shadow`, where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
    /// `/etc/shadow`.
    pub shadow: Option<String>,
}

/// Lines with fields.
struct Table(Vec<Vec<String>>);

impl Table {
    fn parse(text: &str) -> Table {
        Table(text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect())
    }

    fn text(&self) -> String {
        self.0.iter().map(|fields| fields.join(":") + "\n").collect()
    }

    fn find(&mut self, field: usize, value: &str) -> Option<&mut Vec<String>> {
        self.0.iter_mut().find(|fields| fields.get(field).is_some_and(|had| had == value))
    }

    fn has(&self, field: usize, value: &str) -> bool {
        self.0.iter().any(|fields| fields.get(field).is_some_and(|had| had == value))
    }

    fn rename(&mut self, from: &str, to: &str) {
        for fields in self.0.iter_mut().filter(|fields| fields[0] == from) {
            to.clone_into(&mut fields[0]);
        }
    }

    /// A name that nobody has, made of `name`.
    fn free_name(&self, name: &str) -> String {
        let mut out = format!("{name}-image");
        while self.has(0, &out) {
            out.push('x');
        }
        out
    }
}

/// Makes `user` one of the accounts: an entry with its id gets its name, an entry with its name and
/// another id is renamed. `shell` is a shell that the image has.
pub fn map(user: &HostUser, accounts: &Accounts, shell: &str) -> Accounts {
    let mut passwd = Table::parse(&accounts.passwd);
    let mut group = Table::parse(&accounts.group);
    let mut shadow = accounts.shadow.as_deref().map(Table::parse);
    if !passwd.has(2, "0") {
        passwd.0.insert(0, words(&["root", "x", "0", "0", "root", "/root", shell]));
    }
    if !group.has(2, "0") {
        group.0.insert(0, words(&["root", "x", "0", ""]));
    }
    let uid = user.uid.to_string();
    let mut renames: Vec<(String, String)> = Vec::new();
    if passwd.find(0, &user.name).is_some_and(|fields| fields.get(2) != Some(&uid)) {
        renames.push((user.name.clone(), passwd.free_name(&user.name)));
    }
    if let Some(fields) = passwd.find(2, &uid)
        && fields[0] != user.name
    {
        renames.push((fields[0].clone(), user.name.clone()));
    }
    for (from, to) in &renames {
        passwd.rename(from, to);
        if let Some(shadow) = &mut shadow {
            shadow.rename(from, to);
        }
        for fields in group.0.iter_mut().filter(|fields| fields.len() > 3) {
            let members =
                fields[3].split(',').map(|member| if member == from { to.as_str() } else { member });
            fields[3] = members.collect::<Vec<_>>().join(",");
        }
    }
    match passwd.find(2, &uid) {
        Some(fields) => {
            fields.resize(7, String::new());
            fields[3] = user.gid.to_string();
            fields[5].clone_from(&user.home);
            shell.clone_into(&mut fields[6]);
        }
        None => passwd.0.push(words(&[&user.name, "x", &uid, &user.gid.to_string(), "", &user.home, shell])),
    }
    if let Some(shadow) = &mut shadow
        && !shadow.has(0, &user.name)
    {
        shadow.0.push(words(&[&user.name, "*", "19000", "0", "99999", "7", "", "", ""]));
    }
    for (name, gid) in &user.groups {
        add_group(&mut group, name, *gid, user);
    }
    Accounts { passwd: passwd.text(), group: group.text(), shadow: shadow.map(|shadow| shadow.text()) }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

fn add_group(group: &mut Table, name: &str, gid: u32, user: &HostUser) {
    let number = gid.to_string();
    if group.find(2, &number).is_none() {
        // The host's number counts; a name that the image uses for another one gets a prefix.
        let name = if group.has(0, name) { format!("host-{name}") } else { name.to_owned() };
        group.0.push(words(&[&name, "x", &number, ""]));
    }
    if gid == user.gid {
        return;
    }
    if let Some(fields) = group.find(2, &number) {
        fields.resize(4, String::new());
        let members: Vec<&str> = fields[3].split(',').filter(|member| !member.is_empty()).collect();
        if !members.contains(&user.name.as_str()) {
            fields[3] = members.into_iter().chain([user.name.as_str()]).collect::<Vec<_>>().join(",");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> HostUser {
        HostUser {
            name: "ann".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/ann".into(),
            shell: "/bin/zsh".into(),
            groups: vec![("ann".into(), 1000), ("video".into(), 44), ("render".into(), 109)],
        }
    }

    fn accounts(passwd: &str, group: &str) -> Accounts {
        Accounts { passwd: passwd.into(), group: group.into(), shadow: Some("root:*:1::::::\n".into()) }
    }

    const ROOT: &str = "root:x:0:0:root:/root:/bin/bash\n";

    #[test]
    fn images_of_all_kinds() {
        let line = "ann:x:1000:1000::/home/ann:/bin/bash\n";
        for (image, passwd, group, want) in [
            ("without the user", ROOT.to_owned(), "root:x:0:\n", format!("{ROOT}{line}")),
            ("without accounts", String::new(), "", format!("root:x:0:0:root:/root:/bin/bash\n{line}")),
            (
                "with Ubuntu's",
                format!("{ROOT}ubuntu:x:1000:1000:Ubuntu:/home/ubuntu:/bin/sh\n"),
                "root:x:0:\nubuntu:x:1000:\nadm:x:4:ubuntu\n",
                format!("{ROOT}ann:x:1000:1000:Ubuntu:/home/ann:/bin/bash\n"),
            ),
            (
                "with another ann",
                format!("{ROOT}ann:x:500:500::/x:/bin/sh\n"),
                "root:x:0:\nann:x:500:\n",
                format!("{ROOT}ann-image:x:500:500::/x:/bin/sh\n{line}"),
            ),
            (
                "with both",
                format!("{ROOT}ann:x:500:500::/x:/bin/sh\nros:x:1000:7::/ros:/bin/sh\n"),
                "root:x:0:\n",
                format!("{ROOT}ann-image:x:500:500::/x:/bin/sh\nann:x:1000:1000::/home/ann:/bin/bash\n"),
            ),
        ] {
            let made = map(&ann(), &accounts(&passwd, group), "/bin/bash");
            assert_eq!(made.passwd, want, "{image}");
            assert!(made.shadow.as_ref().unwrap().contains("ann:*:"), "{image}");
            assert_eq!(map(&ann(), &made, "/bin/bash"), made, "{image}: again changes nothing");
        }
    }

    #[test]
    fn groups_by_number() {
        let made = map(
            &ann(),
            &accounts(ROOT, "root:x:0:\nvideo:x:44:ros\nrender:x:993:\nusers:x:1000:\n"),
            "/bin/sh",
        );
        assert_eq!(
            made.group,
            "root:x:0:\nvideo:x:44:ros,ann\nrender:x:993:\nusers:x:1000:\nhost-render:x:109:ann\n"
        );
        let renamed = map(
            &ann(),
            &accounts(&format!("{ROOT}ubuntu:x:1000:1000::/h:/b\n"), "adm:x:4:syslog,ubuntu\n"),
            "/bin/sh",
        );
        assert!(renamed.group.contains("adm:x:4:syslog,ann\n"), "{}", renamed.group);
    }

    #[test]
    fn who_the_user_is() {
        let place = robot_env_testkit::temporary::TemporaryDirectory::new("user");
        std::fs::create_dir_all(place.join("etc")).unwrap();
        std::fs::write(place.join("etc/passwd"), format!("{ROOT}ann:x:1000:1000:Ann:/home/ann:/bin/zsh\n"))
            .unwrap();
        std::fs::write(place.join("etc/group"), "root:x:0:\nvideo:x:44:ann\nann:x:1000:\nrender:x:109:\n")
            .unwrap();
        let root = HostRoot::fixture(place.path());
        let session = Session::of([("HOME", "/home/ann")], (1000, 1000), vec![1000, 109]);
        let mut user = HostUser::of(&root, &session);
        user.groups.sort();
        let mut want = ann();
        want.groups.sort();
        assert_eq!(user, want);
        let by_sudo =
            Session::of([("SUDO_UID", "1000"), ("SUDO_GID", "1000"), ("HOME", "/root")], (0, 0), vec![0]);
        let user = HostUser::of(&root, &by_sudo);
        assert_eq!((user.name.as_str(), user.uid, user.home.as_str()), ("ann", 1000, "/home/ann"));
        let ldap = Session::of(
            [("USER", "leo"), ("HOME", "/net/leo"), ("SHELL", "/bin/bash")],
            (70001, 70000),
            vec![70000],
        );
        let user = HostUser::of(&root, &ldap);
        assert_eq!(
            (user.name.as_str(), user.home.as_str(), user.groups),
            ("leo", "/net/leo", vec![("leo".into(), 70000)])
        );
    }
}
