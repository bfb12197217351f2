//! The table's messages: making it anew, elements in and out, reading what is there.

use std::collections::BTreeSet;

use robot_env_diag::Result;
use robot_env_sys::CallError;
use robot_env_sys::netlink::{APPEND, CREATE, DUMP, Message, NetlinkSocket, attributes};
use rustix::io::Errno;

use super::expression::{NESTED, value};
use super::ruleset::{Chain, Element, Elements, Field, NAME_KIND, SETS, Set, chains};

/// What the names of tables of ours begin with; their family is `inet`.
pub const TABLE: &str = "robot-env";

pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
pub(super) const DELRULE: u16 = 8;
pub(super) const GETCHAIN: u16 = 4;
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
pub(super) const INET: u8 = 1;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;

const SET_USERDATA: u16 = 13;
/// nft's own notes in a set's user data (libnftnl's `NFTNL_UDATA_SET_KEYBYTEORDER`).
const KEY_BYTE_ORDER: u8 = 0;
const HOST_ENDIAN: u32 = 1;
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const INTERVAL_END: u32 = 1;
const ELEMENTS: u16 = 3;
/// Of elements a message: an attribute ends at 64 KiB.
const ELEMENTS_A_MESSAGE: usize = 500;
/// The size of nfgenmsg: family, version, resource.
pub(super) const FIXED: usize = 4;

pub(super) fn message(kind: u16, flags: u16, family: u8, what: String) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, what).fixed(&[family, 0, 0, 0])
}

pub(super) fn delete_table(table: &str) -> Message {
    let mut delete = message(DELTABLE, 0, INET, format!("NFT_MSG_DELTABLE({table})"));
    delete.text(1, table);
    delete
}

/// The transaction that makes the table anew, whatever was there.
pub(super) fn replacement(table: &str, guarded: bool, elements: &Elements) -> Vec<Message> {
    let mut create = message(NEWTABLE, CREATE, INET, format!("NFT_MSG_NEWTABLE({table})"));
    create.text(1, table);
    // First made, so that the delete finds one.
    let mut out = vec![create.clone(), delete_table(table), create];
    for (at, set) in SETS.iter().enumerate() {
        out.push(new_set(table, set, at as u32 + 1));
    }
    let chains = chains(guarded);
    for chain in &chains {
        out.push(new_chain(table, chain));
        for (at, rule) in chain.rules.iter().enumerate() {
            let mut new =
                message(NEWRULE, CREATE | APPEND, INET, format!("NFT_MSG_NEWRULE({} {at})", chain.name));
            new.text(RULE_TABLE, table).text(RULE_CHAIN, chain.name);
            let list = new.begin(RULE_EXPRESSIONS | NESTED);
            for expression in rule {
                expression.write(&mut new);
            }
            new.end(list);
            new.attribute(RULE_USERDATA, &comment(&mark(chain.name, at, rule)));
            out.push(new);
        }
    }
    out.extend(insert_elements(table, elements, CREATE));
    out
}

/// What a rule's comment is: a rule that another version made differs.
fn mark(chain: &str, at: usize, rule: &[super::expression::Expression]) -> String {
    // FNV-1a over the rule as it is printed: stable enough to tell two versions apart.
    let text = format!("{rule:?}");
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{chain} {at} {hash:016x}")
}

/// A comment as nft writes and prints it.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, text.len() as u8 + 1];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

/// The comments that the table's rules should have.
pub(super) fn expected_marks(guarded: bool) -> BTreeSet<Vec<u8>> {
    chains(guarded)
        .iter()
        .flat_map(|chain| {
            chain.rules.iter().enumerate().map(|(at, rule)| comment(&mark(chain.name, at, rule)))
        })
        .collect()
}

/// The comments that they have.
pub(super) fn rule_marks(socket: &mut NetlinkSocket, table: &str) -> Result<BTreeSet<Vec<u8>>> {
    let mut ask = message(GETRULE, DUMP, INET, format!("NFT_MSG_GETRULE({table})"));
    ask.text(RULE_TABLE, table);
    let answers = or_none(socket.ask(ask))?.unwrap_or_default();
    Ok(answers
        .iter()
        .filter_map(|answer| {
            let mut all = attributes(answer.get(FIXED..)?);
            // Kernels that don't filter dumps by table show the others' rules too.
            let ours = all.clone_find(RULE_TABLE)? == [table.as_bytes(), &[0]].concat();
            ours.then(|| all.find(|(kind, _)| *kind == RULE_USERDATA).map(|(_, data)| data.to_vec()))
                .map(Option::unwrap_or_default)
        })
        .collect())
}

/// Finds an attribute and leaves the iterator behind it.
trait Find<'a> {
    fn clone_find(&mut self, kind: u16) -> Option<&'a [u8]>;
}

impl<'a, I: Iterator<Item = (u16, &'a [u8])>> Find<'a> for I {
    fn clone_find(&mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind).map(|(_, data)| data)
    }
}

fn or_none(answer: Result<Vec<Vec<u8>>, CallError>) -> Result<Option<Vec<Vec<u8>>>> {
    match answer {
        Ok(answers) => Ok(Some(answers)),
        Err(error) if error.errno() == Errno::NOENT => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn new_chain(table: &str, chain: &Chain) -> Message {
    let mut new = message(NEWCHAIN, CREATE, INET, format!("NFT_MSG_NEWCHAIN({})", chain.name));
    new.text(1, table).text(3, chain.name);
    let hook = new.begin(4 | NESTED);
    new.number_be(1, chain.hook).number_be(2, chain.priority as u32);
    new.end(hook);
    new.number_be(5, 1).text(7, chain.kind); // policy accept
    new
}

fn new_set(table: &str, set: &Set, id: u32) -> Message {
    let kind = |fields: &[Field]| fields.iter().fold(0, |kind, field| kind << 6 | field.kind);
    let length = |fields: &[Field]| fields.iter().map(|field| field.length).sum::<u32>();
    let mut new = message(NEWSET, CREATE, INET, format!("NFT_MSG_NEWSET({})", set.name));
    let flags = if set.interval { INTERVAL } else { 0 } | if set.data.is_empty() { 0 } else { MAP };
    new.text(1, table).text(2, set.name).number_be(3, flags);
    new.number_be(4, kind(set.key)).number_be(5, length(set.key));
    if !set.data.is_empty() {
        new.number_be(6, kind(set.data)).number_be(7, length(set.data));
    }
    new.number_be(10, id);
    if matches!(set.key, [field] if field.kind == NAME_KIND) {
        // Without it nft prints names as numbers of the other byte order, and a ruleset that is saved
        // and loaded again would have lost them.
        let mut data = vec![KEY_BYTE_ORDER, 4];
        data.extend(HOST_ENDIAN.to_ne_bytes());
        new.attribute(SET_USERDATA, &data);
    }
    new
}

/// Messages that add elements.
pub(super) fn insert_elements(table: &str, elements: &Elements, flags: u16) -> Vec<Message> {
    change_elements(table, NEWSETELEM, flags, "NFT_MSG_NEWSETELEM", elements)
}

/// Messages that remove elements.
pub(super) fn delete_elements(table: &str, elements: &Elements) -> Vec<Message> {
    change_elements(table, DELSETELEM, 0, "NFT_MSG_DELSETELEM", elements)
}

fn change_elements(table: &str, kind: u16, flags: u16, what: &str, elements: &Elements) -> Vec<Message> {
    let mut out = Vec::new();
    for (set, all) in elements {
        let all: Vec<&Element> = all.iter().collect();
        for part in all.chunks(ELEMENTS_A_MESSAGE) {
            let mut change = message(kind, flags, INET, format!("{what}({set}, {})", part.len()));
            change.text(1, table).text(2, set);
            let list = change.begin(ELEMENTS | NESTED);
            for element in part {
                let one = change.begin(1 | NESTED);
                value(&mut change, 1, &element.key);
                if !element.data.is_empty() {
                    value(&mut change, 2, &element.data);
                }
                if element.end {
                    change.number_be(3, INTERVAL_END);
                }
                change.end(one);
            }
            change.end(list);
            out.push(change);
        }
    }
    out
}

/// Is the table there?
pub(super) fn has_table(socket: &mut NetlinkSocket, table: &str) -> Result<bool> {
    let mut ask = message(GETTABLE, 0, INET, format!("NFT_MSG_GETTABLE({table})"));
    ask.text(1, table);
    Ok(or_none(socket.ask(ask))?.is_some())
}

/// The elements of a set; `None` if there is no such set.
pub(super) fn elements_of(
    socket: &mut NetlinkSocket,
    table: &str,
    set: &str,
) -> Result<Option<BTreeSet<Element>>> {
    let mut ask = message(GETSETELEM, DUMP, INET, format!("NFT_MSG_GETSETELEM({set})"));
    ask.text(1, table).text(2, set);
    let Some(answers) = or_none(socket.ask(ask))? else { return Ok(None) };
    let mut out = BTreeSet::new();
    for answer in &answers {
        let lists = attributes(answer.get(FIXED..).unwrap_or_default()).filter(|(kind, _)| *kind == ELEMENTS);
        for (_, one) in lists.flat_map(|(_, list)| attributes(list)) {
            let mut element = Element { key: Vec::new(), data: Vec::new(), end: false };
            for (kind, inner) in attributes(one) {
                let bytes = || attributes(inner).next().map(|(_, bytes)| bytes.to_vec()).unwrap_or_default();
                match kind {
                    1 => element.key = bytes(),
                    2 => element.data = bytes(),
                    3 => element.end = inner == INTERVAL_END.to_be_bytes(),
                    _ => {}
                }
            }
            // The kernel adds the end of everything to an interval set.
            if !(element.end && element.key.iter().all(|byte| *byte == 0)) {
                out.insert(element);
            }
        }
    }
    Ok(Some(out))
}
