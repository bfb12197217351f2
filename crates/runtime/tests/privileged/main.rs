//! Real containers: a busybox root file system, real namespaces, real cgroups. Needs root and
//! `busybox-static`; says why when it skips.
//!
//! The runtime clones only from a process with one thread, which the standard harness is not, so
//! this file has a harness of its own: each test is a forked process.

#![allow(clippy::print_stdout)] // it is a program of its own

mod basics;
mod features;
mod outside;
mod place;
mod rootless;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use robot_env_sys::poll::{Fork, exit_now, fork};

type Test = (&'static str, fn());

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => { [$((stringify!($name), $module::$name as fn())),*] };
}

const TESTS: &[Test] = &tests![
    basics::privileged_a_container_is_isolated,
    basics::privileged_failures_have_their_kinds,
    basics::privileged_an_image_cannot_redirect_mounts,
    basics::privileged_exec_joins_with_a_terminal,
    features::privileged_the_user_is_the_specs,
    features::privileged_the_filter_holds_with_and_without_new_privileges,
    features::privileged_mounts_are_as_written,
    features::privileged_devices_are_made_and_limited,
    features::privileged_kernel_parameters_are_the_containers_own,
    features::privileged_hooks_run_in_their_order,
    features::privileged_a_user_namespace_is_mapped,
    features::privileged_namespaces_are_shared_by_path,
    features::privileged_time_is_shifted,
    features::privileged_a_terminal_is_the_console,
    features::privileged_limits_are_in_the_cgroup,
    features::privileged_hostile_specs_and_images_are_refused,
    features::privileged_descriptors_can_be_handed_in,
    outside::privileged_a_container_lives_its_life_by_commands,
    outside::privileged_commands_clean_up_after_failures,
    outside::privileged_runc_runs_our_bundles,
    outside::privileged_crun_runs_our_bundles,
    rootless::privileged_an_ordinary_user_runs_containers,
];

fn passes((_, test): &Test) -> bool {
    match fork().expect("the harness has one thread") {
        Fork::Child => exit_now(i32::from(catch_unwind(AssertUnwindSafe(test)).is_err())),
        Fork::Parent(pid) => {
            let pid = rustix::process::Pid::from_raw(pid);
            let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
            status.ok().flatten().is_some_and(|(_, status)| status.exit_status() == Some(0))
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let chosen: Vec<&Test> = TESTS.iter().filter(|(name, _)| chosen(name)).collect();
    if arguments.iter().any(|a| a == "--list") {
        for (name, _) in chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for test in &chosen {
        let passed = passes(test);
        failed += usize::from(!passed);
        println!("test {} ... {}", test.0, if passed { "ok" } else { "FAILED" });
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, out) = (chosen.len() - failed, TESTS.len() - chosen.len());
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out} filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}
