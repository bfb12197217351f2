use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSyscall};

use super::interpreter::{Call, run};
use super::tables::{AARCH64, ARM, Entry, I386, X86_64};
use super::*;

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARM: u32 = 0x4000_0028;
const ALLOW: u32 = 0x7fff_0000;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

/// The rules of each call that a profile names, in its order.
type Rules<'a> = BTreeMap<u32, Vec<&'a LinuxSyscall>>;

fn rules<'a>(profile: &'a LinuxSeccomp, table: &[Entry]) -> Rules<'a> {
    let mut out = Rules::new();
    for rule in profile.syscalls().iter().flatten() {
        for name in rule.names() {
            for (_, number) in table.iter().filter(|(known, _)| known == name) {
                out.entry(*number).or_default().push(rule);
            }
        }
    }
    out
}

/// What a profile means, read off the rules one by one.
fn reference(profile: &LinuxSeccomp, rules: &Rules<'_>, call: &Call) -> u32 {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    if call.architecture == AUDIT_X86_64 && call.number >= 0x4000_0000 {
        return 0x0005_0026;
    }
    let Some(mine) = rules.get(&call.number) else {
        let newest = rules.keys().copied().filter(|n| *n < 0xf_0000).max();
        let newer = newest.is_some_and(|n| call.number > n) && call.number < 0xf_0000;
        let lets_pass = default == ALLOW || default == 0x7ffc_0000 || default & 0xffff_0000 == 0x7ff0_0000;
        return if newer && !lets_pass { 0x0005_0026 } else { default };
    };
    let mut last = default;
    for rule in mine {
        let args = rule.args().clone().unwrap_or_default();
        if args.is_empty() {
            last = rule.action().as_u32(rule.errno_ret());
        }
    }
    for rule in mine {
        let args = rule.args().clone().unwrap_or_default();
        let holds = |arg: &oci_spec::runtime::LinuxSeccompArg| {
            use oci_spec::runtime::LinuxSeccompOperator::*;
            let (is, value) = (call.arguments[arg.index()], arg.value());
            match arg.op() {
                ScmpCmpNe => is != value,
                ScmpCmpLt => is < value,
                ScmpCmpLe => is <= value,
                ScmpCmpEq => is == value,
                ScmpCmpGe => is >= value,
                ScmpCmpGt => is > value,
                ScmpCmpMaskedEq => is & value == arg.value_two().unwrap_or(0),
            }
        };
        let twice = args.iter().enumerate().any(|(i, a)| args[..i].iter().any(|b| a.index() == b.index()));
        let matches = if twice { args.iter().any(holds) } else { args.iter().all(holds) };
        if !args.is_empty() && matches {
            return rule.action().as_u32(rule.errno_ret());
        }
    }
    last
}

const MIXED: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "syscalls": [
        {"names": ["read", "write", "close", "openat", "execve", "exit_group", "set_tls", "cacheflush", "mseal"],
         "action": "SCMP_ACT_ALLOW"},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}]},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
        {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["ioctl"], "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 1, "value": 21522, "op": "SCMP_CMP_EQ"}]},
        {"names": ["mmap"], "action": "SCMP_ACT_LOG", "args": [
            {"index": 1, "value": 4294967296, "op": "SCMP_CMP_GT"}, {"index": 2, "value": 7, "op": "SCMP_CMP_LE"}]},
        {"names": ["prctl"], "action": "SCMP_ACT_TRAP", "args": [
            {"index": 0, "value": 5, "op": "SCMP_CMP_LT"}, {"index": 0, "value": 90, "op": "SCMP_CMP_GE"}]},
        {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [
            {"index": 3, "value": 1311768467463790320, "valueTwo": 1311768467463790080, "op": "SCMP_CMP_MASKED_EQ"},
            {"index": 4, "value": 0, "op": "SCMP_CMP_NE"}]},
        {"names": ["no_such_call"], "action": "SCMP_ACT_ALLOW"}
    ]}"#;

const VALUES: [u64; 18] = [
    0,
    1,
    4,
    5,
    7,
    8,
    40,
    89,
    90,
    21522,
    0x7e02_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x1_0000_0028,
    0x1234_5678_9abc_de00,
    0x1234_5678_9abc_def0,
    u64::MAX,
];

fn compare(profile: &LinuxSeccomp, sections: &[(u32, &[Entry])]) -> usize {
    let filter = compile(profile).unwrap();
    let mut longest = 0;
    for (architecture, table) in sections {
        let rules = rules(profile, table);
        let beyond = [
            1000,
            0xe_ffff,
            0xf_0000,
            0xf_0002,
            0xf_0005,
            0xf_0007,
            0x3fff_ffff,
            0x4000_0000,
            0x4000_0001,
            u32::MAX,
        ];
        for number in (0..600).chain(beyond) {
            let depends = rules.get(&number).is_some_and(|r| r.iter().any(|r| r.args().is_some()));
            for (at, value) in VALUES.iter().enumerate().take(if depends { VALUES.len() } else { 1 }) {
                for argument in 0..6 {
                    let mut arguments = [VALUES[(at + 7) % VALUES.len()]; 6];
                    arguments[argument] = *value;
                    let call = Call { number, architecture: *architecture, arguments };
                    let (answer, steps) = run(&filter.program, &call);
                    assert_eq!(answer, reference(profile, &rules, &call), "{call:x?}");
                    longest = longest.max(steps);
                }
            }
        }
    }
    longest
}

#[test]
fn the_program_answers_what_the_rules_say() {
    let all: [(u32, &[Entry]); 4] =
        [(AUDIT_X86_64, &X86_64), (AUDIT_I386, &I386), (AUDIT_AARCH64, &AARCH64), (AUDIT_ARM, &ARM)];
    compare(&profile(MIXED), &all);
    for default in
        ["SCMP_ACT_ALLOW", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"]
    {
        compare(
            &profile(&MIXED.replacen("SCMP_ACT_ERRNO", default, 1).replacen(
                r#""defaultErrnoRet": 1,"#,
                "",
                1,
            )),
            &all,
        );
    }
}

#[test]
fn every_call_alone_is_found() {
    // Every second call allowed: the tree gets as deep as it can, and jumps as far.
    let names: Vec<&str> = X86_64.iter().filter(|(_, n)| n % 2 == 0).map(|(name, _)| *name).collect();
    let json = serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]
    });
    if cfg!(target_arch = "x86_64") {
        let longest = compare(&profile(&json.to_string()), &[(AUDIT_X86_64, &X86_64)]);
        assert!(longest <= 20, "{longest} instructions for one call");
    }
}

#[test]
fn a_strange_architecture_is_killed() {
    let filter = compile(&profile(MIXED)).unwrap();
    assert_eq!(run(&filter.program, &Call { number: 0, architecture: 8, arguments: [0; 6] }).0, 0x8000_0000);
}

#[test]
fn tables_are_sorted_and_know_the_corners() {
    for table in [&X86_64[..], &I386, &AARCH64, &ARM] {
        assert!(table.is_sorted_by(|a, b| a.0 < b.0));
    }
    for (table, name, want) in [
        (&X86_64[..], "read", 0),
        (&X86_64, "clone3", 435),
        (&I386, "read", 3),
        (&AARCH64, "read", 63),
        (&AARCH64, "file_setattr", 469),
        (&ARM, "set_tls", 0xf_0005),
        (&I386, "socketcall", 102),
        (&ARM, "read", 3),
    ] {
        assert_eq!(profile::number(table, name), Some(want), "{name}");
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    for (json, kind) in [
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, Kind::Unsupported),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            Kind::InvalidInput,
        ),
        (r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}"#, Kind::InvalidInput),
    ] {
        assert_eq!(compile(&profile(json)).unwrap_err().kind(), kind, "{json}");
    }
}

#[test]
fn the_cache_gives_back_what_was_compiled_and_nothing_damaged() {
    let directory = std::env::temp_dir().join(format!("re-seccomp-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let profile = profile(MIXED);
    let fresh = compile(&profile).unwrap();
    let cached = || {
        *LAST.lock().unwrap() = None;
        compile_cached(&profile, Some(&directory)).unwrap()
    };
    assert_eq!(*cached(), fresh);
    let file = directory.join(hex(&key(&profile)));
    let good = fs::read(&file).unwrap();
    assert_eq!(*cached(), fresh);
    // A damaged file is not believed, and replaced.
    let mut bad = good.clone();
    bad[40] ^= 1;
    fs::write(&file, &bad).unwrap();
    assert_eq!(*cached(), fresh);
    assert_eq!(fs::read(&file).unwrap(), good);
    fs::remove_dir_all(&directory).unwrap();
}
