//! `--restart`, `--health-*`, `--log-*`, `--attach`, `--detach-keys`.

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::Healthcheck;
use robot_env_spec::{AttachStreams, LogConfig, LogDriver, RestartPolicy};

use super::{ContainerFlags, environment};
use crate::quantity;

/// Reads `--restart`.
pub(crate) fn restart_policy(text: &str) -> Result<RestartPolicy> {
    let bad = |why: &str| {
        Error::invalid(format!("invalid restart policy `{text}`: {why}"))
            .with_hint("the policies are no, on-failure[:N], always and unless-stopped")
    };
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    let policy = match name {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => {
            let maximum = count
                .map_or(Ok(0), str::parse)
                .map_err(|_| bad("maximum retry count must be a whole number"))?;
            return Ok(RestartPolicy::OnFailure { maximum });
        }
        _ => return Err(bad("there is no such policy")),
    };
    match count {
        Some(_) => Err(bad("maximum retry count can only be used with `on-failure`")),
        None => Ok(policy),
    }
}

pub(super) fn healthcheck(flags: &ContainerFlags) -> Result<Option<Healthcheck>> {
    let positive = |flag: &str, text: &Option<String>| match text.as_deref().map(quantity::duration) {
        None => Ok(0),
        Some(Ok(n)) if n == 0 || n >= 1_000_000 => Ok(n),
        Some(Ok(_)) => Err(Error::invalid(format!("{flag} cannot be negative or less than 1ms"))),
        Some(Err(error)) => Err(error.within(format!("invalid argument for {flag}"))),
    };
    let check = Healthcheck {
        test: flags
            .health_cmd
            .iter()
            .filter(|c| !c.is_empty())
            .flat_map(|c| ["CMD-SHELL".to_owned(), c.clone()])
            .collect(),
        interval: positive("--health-interval", &flags.health_interval)?,
        timeout: positive("--health-timeout", &flags.health_timeout)?,
        start_period: positive("--health-start-period", &flags.health_start_period)?,
        start_interval: positive("--health-start-interval", &flags.health_start_interval)?,
        retries: flags.health_retries.unwrap_or(0),
    };
    if check.retries < 0 {
        return Err(Error::invalid("--health-retries cannot be negative"));
    }
    let given = check != Healthcheck::default();
    if flags.no_healthcheck {
        if given {
            return Err(Error::invalid("--no-healthcheck conflicts with --health-* options"));
        }
        return Ok(Some(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() }));
    }
    Ok(given.then_some(check))
}

pub(super) fn log_config(driver: Option<&str>, options: &[String]) -> Result<LogConfig> {
    let driver_name = driver.filter(|name| !name.is_empty()).unwrap_or("json-file");
    let driver = match driver_name {
        "json-file" => LogDriver::JsonFile,
        "local" => LogDriver::Local,
        "none" => LogDriver::None,
        other => {
            return Err(Error::new(Kind::Unsupported, format!("there is no log driver `{other}`"))
                .with_hint("the log drivers are json-file, local and none"));
        }
    };
    let as_given = environment::map(options, "log option")?;
    if driver == LogDriver::None && !as_given.is_empty() {
        return Err(Error::invalid("invalid logging opts for driver none"));
    }
    let (mut max_size, mut max_file) = (None, None);
    for (key, value) in &as_given {
        let bad = || Error::invalid(format!("invalid value for log option {key}: `{value}`"));
        match key.as_str() {
            "max-size" if value == "-1" => max_size = Some(u64::MAX),
            "max-size" => {
                max_size = Some(quantity::bytes(value).ok().filter(|n| *n > 0).ok_or_else(bad)? as u64);
            }
            "max-file" => max_file = Some(value.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?),
            // `local` compresses by itself; a slow log never blocks the program.
            "compress" if value == "false" || (driver == LogDriver::Local && value == "true") => {}
            "mode" if value == "non-blocking" => {}
            _ => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("unknown log opt '{key}' for {driver_name} log driver"),
                )
                .with_hint("the log options are max-size=SIZE and max-file=N"));
            }
        }
    }
    Ok(LogConfig { driver, max_size, max_file, as_given })
}

/// The streams to attach; without `--attach` all of them, stdin only with `--interactive`.
pub(super) fn attach(flags: &ContainerFlags) -> Result<AttachStreams> {
    if flags.attach.is_empty() {
        return Ok(AttachStreams { stdin: flags.interactive, stdout: true, stderr: true });
    }
    let mut streams = AttachStreams::default();
    for name in &flags.attach {
        match name.to_ascii_lowercase().as_str() {
            "stdin" => streams.stdin = true,
            "stdout" => streams.stdout = true,
            "stderr" => streams.stderr = true,
            _ => {
                return Err(Error::invalid(format!(
                    "invalid argument `{name}` for --attach: valid streams are STDIN, STDOUT and STDERR"
                )));
            }
        }
    }
    Ok(streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies() {
        for (text, want) in [
            ("no", RestartPolicy::No),
            ("", RestartPolicy::No),
            ("always", RestartPolicy::Always),
            ("unless-stopped", RestartPolicy::UnlessStopped),
            ("on-failure", RestartPolicy::OnFailure { maximum: 0 }),
            ("on-failure:3", RestartPolicy::OnFailure { maximum: 3 }),
        ] {
            assert_eq!(restart_policy(text).unwrap(), want, "{text}");
        }
        for bad in ["sometimes", "always:3", "no:1", "on-failure:x", "on-failure:-1"] {
            assert!(restart_policy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn logs() {
        let opts = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let config = log_config(None, &opts(&["max-size=10m", "max-file=2"])).unwrap();
        assert_eq!(
            (config.driver, config.max_size, config.max_file),
            (LogDriver::JsonFile, Some(10 << 20), Some(2))
        );
        assert_eq!(log_config(Some("local"), &[]).unwrap().driver, LogDriver::Local);
        assert_eq!(log_config(Some("none"), &[]).unwrap().driver, LogDriver::None);
        for (driver, options) in [
            (Some("journald"), opts(&[])),
            (Some("none"), opts(&["max-size=1m"])),
            (None, opts(&["max-size=x"])),
            (None, opts(&["max-file=0"])),
            (None, opts(&["labels=a"])),
            (None, opts(&["compress=true"])),
        ] {
            assert!(log_config(driver, &options).is_err(), "{driver:?} {options:?}");
        }
    }
}
