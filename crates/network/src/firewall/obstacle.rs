//! Other programs' chains that drop what our bridges forward.
//!
//! nf_tables asks every chain of a hook; a packet passes only if none drops it. So where iptables'
//! `FORWARD` drops by its policy (Docker, ufw), four rules there accept what comes from or goes to
//! our bridges: in `DOCKER-USER` where there is one (Docker never clears it), at the head of
//! `FORWARD` otherwise. They are such as `iptables` itself writes, so that it can go on listing and
//! changing the table. The limits:
//!
//! - a rule that stands before `DOCKER-USER`, or a user's own drop in it, comes first or later as
//!   the user wrote it; ours are inserted at the head, once;
//! - iptables' *legacy* back end (Ubuntu 20.04, JetPack 5) is not nf_tables; its chains are not
//!   seen here, and [`Obstacle::Legacy`] says so;
//! - firewalld rejects what none of its zones has: the same rules stand at the head of its
//!   `filter_FORWARD`, until it reloads (`network reload` puts them back). From 2.2 on it may own its
//!   table, so that nobody else can; then the cure is
//!   `firewall-cmd --permanent --zone=trusted --add-interface=BRIDGE`;
//! - other tables whose forward chain drops by its policy belong to the user: they are named, not
//!   changed.

use std::fmt;

use robot_env_diag::Result;
use robot_env_sys::netlink::{CREATE, DUMP, Message, attributes};

use super::Firewall;
use super::expression::{Expression, Meta, NESTED};
use super::message::{
    DELRULE, FIXED, GETCHAIN, GETRULE, INET, NEWRULE, NFNL_SUBSYS_NFTABLES, RULE_CHAIN, RULE_EXPRESSIONS,
    RULE_HANDLE, RULE_TABLE, RULE_USERDATA, TABLE, comment, message,
};
use crate::plan::{BRIDGE_PREFIX, DEFAULT_BRIDGE};

const IP: u8 = 2;
const IP6: u8 = 10;
const FORWARD_HOOK: u32 = 2;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const DOCKER_USER: &str = "DOCKER-USER";
const COMMENT: &str = "robot-env";

/// Something that may drop our networks' packets and that is not ours to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A base chain of another table that drops by its policy: family, table, chain.
    Chain(&'static str, String, String),
    /// firewalld runs: its zones decide.
    Firewalld,
    /// iptables' legacy back end has a `filter` table.
    Legacy,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Chain(family, table, chain) => {
                write!(f, "chain `{chain}` of table `{family} {table}` drops what it does not know")
            }
            Obstacle::Firewalld => f.write_str("firewalld rejects interfaces that no zone has"),
            Obstacle::Legacy => f.write_str("iptables' legacy tables may drop what is forwarded"),
        }
    }
}

/// A chain of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    drops_forwarded: bool,
}

fn family_name(family: u8) -> &'static str {
    match family {
        INET => "inet",
        IP => "ip",
        IP6 => "ip6",
        _ => "other",
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

fn read_chain(answer: &[u8]) -> Option<Chain> {
    let mut chain =
        Chain { family: *answer.first()?, table: String::new(), name: String::new(), drops_forwarded: false };
    let (mut hook, mut policy) = (None, None);
    for (kind, value) in attributes(answer.get(FIXED..)?) {
        match kind {
            1 => chain.table = text(value),
            3 => chain.name = text(value),
            4 => {
                hook = attributes(value).find(|(kind, _)| *kind == 1).and_then(|(_, value)| number(value));
            }
            5 => policy = number(value),
            _ => {}
        }
    }
    chain.drops_forwarded = hook == Some(FORWARD_HOOK) && policy == Some(DROP);
    Some(chain)
}

/// A chain that our accepting rules are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    family: u8,
    table: &'static str,
    chain: &'static str,
}

const FILTER: &str = "filter";
const FIREWALLD: &str = "firewalld";
const FIREWALLD_FORWARD: &str = "filter_FORWARD";

/// Where accepting rules belong, and what cannot be mended by them.
fn judge(chains: &[Chain]) -> (Vec<Place>, Vec<Obstacle>) {
    let (mut places, mut obstacles) = (Vec::new(), Vec::new());
    for family in [IP, IP6] {
        let find =
            |name: &str| chains.iter().find(|c| c.family == family && c.table == "filter" && c.name == name);
        if let Some(forward) = find("FORWARD") {
            if find(DOCKER_USER).is_some() {
                places.push(Place { family, table: FILTER, chain: DOCKER_USER });
            } else if forward.drops_forwarded {
                places.push(Place { family, table: FILTER, chain: "FORWARD" });
            }
        }
    }
    for chain in chains {
        let iptables = matches!(chain.family, IP | IP6) && chain.table == "filter" && chain.name == "FORWARD";
        let ours = chain.family == INET && chain.table.starts_with(TABLE);
        if chain.table == FIREWALLD {
            let place = Place { family: INET, table: FIREWALLD, chain: FIREWALLD_FORWARD };
            if chain.family == INET && chain.name == FIREWALLD_FORWARD {
                places.push(place);
            }
        } else if chain.drops_forwarded && !iptables && !ours && matches!(chain.family, INET | IP | IP6) {
            obstacles.push(Obstacle::Chain(
                family_name(chain.family),
                chain.table.clone(),
                chain.name.clone(),
            ));
        }
    }
    (places, obstacles)
}

/// Accepts what comes from (or goes to) interfaces whose name begins, or is, so.
fn accepting(place: Place, meta: Meta, name: &[u8]) -> Message {
    let Place { family, table, chain } = place;
    let mut new = message(NEWRULE, CREATE, family, format!("NFT_MSG_NEWRULE({table} {chain})"));
    new.text(RULE_TABLE, table).text(RULE_CHAIN, chain);
    let list = new.begin(RULE_EXPRESSIONS | NESTED);
    for expression in [
        Expression::Meta(meta, 0),
        Expression::Is(name.to_vec()),
        Expression::Counter,
        Expression::Verdict(ACCEPT),
    ] {
        expression.write(&mut new);
    }
    new.end(list);
    new.attribute(RULE_USERDATA, &comment(COMMENT));
    new
}

impl Firewall {
    /// Lets our bridges pass the chains of iptables that would drop them, once, and tells what else
    /// may be in the way. Not for the path of a container's start: a network's making and `reload`
    /// call it.
    pub fn open_obstacles(&mut self) -> Result<Vec<Obstacle>> {
        let answers = self.socket.ask(message(GETCHAIN, DUMP, 0, "NFT_MSG_GETCHAIN(all)".to_owned()))?;
        let chains: Vec<Chain> = answers.iter().filter_map(|answer| read_chain(answer)).collect();
        let (places, mut obstacles) = judge(&chains);
        let exact = [DEFAULT_BRIDGE.as_bytes(), &[0]].concat();
        let all = [
            (Meta::IncomingName, BRIDGE_PREFIX.as_bytes()),
            (Meta::OutgoingName, BRIDGE_PREFIX.as_bytes()),
            (Meta::IncomingName, exact.as_slice()),
            (Meta::OutgoingName, exact.as_slice()),
        ];
        for place in places {
            let there = self.own_rules(place)?;
            if there.len() == all.len() {
                continue;
            }
            let mut messages: Vec<Message> = there.iter().map(|handle| delete_rule(place, handle)).collect();
            messages.extend(all.iter().map(|(meta, name)| accepting(place, *meta, name)));
            let done =
                self.commit(&mut messages, &format!("cannot let networks pass chain `{}`", place.chain));
            match done {
                // Its table is its own.
                Err(_) if place.table == FIREWALLD => obstacles.push(Obstacle::Firewalld),
                done => done?,
            }
        }
        let legacy = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
        if legacy.lines().any(|table| table == "filter") {
            obstacles.push(Obstacle::Legacy);
        }
        Ok(obstacles)
    }

    /// Takes our rules out of others' chains.
    pub fn close_obstacles(&mut self) -> Result<()> {
        let filters = [IP, IP6]
            .into_iter()
            .flat_map(|family| [DOCKER_USER, "FORWARD"].map(|chain| Place { family, table: FILTER, chain }));
        let firewalld = Place { family: INET, table: FIREWALLD, chain: FIREWALLD_FORWARD };
        for place in filters.chain([firewalld]) {
            let rules = self.own_rules(place)?;
            let mut messages: Vec<Message> = rules.iter().map(|handle| delete_rule(place, handle)).collect();
            if !messages.is_empty() {
                self.socket.transaction(NFNL_SUBSYS_NFTABLES, &mut messages)?;
            }
        }
        Ok(())
    }

    /// Handles of our rules in another's chain.
    fn own_rules(&mut self, place: Place) -> Result<Vec<Vec<u8>>> {
        let ask = message(GETRULE, DUMP, place.family, format!("NFT_MSG_GETRULE({})", place.table));
        let wanted = comment(COMMENT);
        let mut out = Vec::new();
        for answer in self.socket.ask(ask)? {
            let all: Vec<(u16, &[u8])> = attributes(answer.get(FIXED..).unwrap_or_default()).collect();
            let find = |kind: u16| all.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value);
            if find(RULE_USERDATA) == Some(&wanted)
                && find(RULE_TABLE).map(text).as_deref() == Some(place.table)
                && find(RULE_CHAIN).map(text).as_deref() == Some(place.chain)
                && let Some(handle) = find(RULE_HANDLE)
            {
                out.push(handle.to_vec());
            }
        }
        Ok(out)
    }
}

fn delete_rule(place: Place, handle: &[u8]) -> Message {
    let Place { family, table, chain } = place;
    let mut delete = message(DELRULE, 0, family, format!("NFT_MSG_DELRULE({table} {chain})"));
    delete.text(RULE_TABLE, table).text(RULE_CHAIN, chain).attribute(RULE_HANDLE, handle);
    delete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_obstacles() {
        let chain = |family, table: &str, name: &str, drops_forwarded| Chain {
            family,
            table: table.into(),
            name: name.into(),
            drops_forwarded,
        };
        let nothing = [chain(IP, "filter", "FORWARD", false), chain(INET, TABLE, "forward", false)];
        assert_eq!(judge(&nothing), (vec![], vec![]));
        let ufw = [chain(IP, "filter", "FORWARD", true), chain(IP6, "filter", "FORWARD", true)];
        let filter = |family, chain| Place { family, table: FILTER, chain };
        assert_eq!(judge(&ufw).0, [filter(IP, "FORWARD"), filter(IP6, "FORWARD")]);
        let docker = [chain(IP, "filter", "FORWARD", true), chain(IP, "filter", DOCKER_USER, false)];
        assert_eq!(judge(&docker), (vec![filter(IP, DOCKER_USER)], vec![]));
        let others = [chain(INET, "firewalld", "filter_FORWARD", false), chain(INET, "mine", "fwd", true)];
        let firewalld = Place { family: INET, table: FIREWALLD, chain: FIREWALLD_FORWARD };
        let mine = Obstacle::Chain("inet", "mine".into(), "fwd".into());
        assert_eq!(judge(&others), (vec![firewalld], vec![mine]));
    }
}
