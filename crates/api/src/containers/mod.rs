//! `/containers`: what is done to containers, as Docker's paths name it.

pub(crate) mod attach;
pub(crate) mod conversion;
pub(crate) use self::conversion::endpoint;
pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod list;
pub(crate) mod logs;
mod mounts;
pub(crate) mod stats;
pub(crate) mod wait;

use robot_env_diag::Kind;
use robot_env_engine::record::State;
use robot_env_engine::{
    Container, CreateRequest, Engine, Given, RemoveContainerOptions, StopOptions, UpdateRequest,
    apply_defaults,
};
use robot_env_wire::{ContainerFacts, ContainerInspect, CreateContainer, UpdateContainer};
use serde_json::json;

pub(crate) use self::list::{list, prune};
use crate::failure::{Failure, Result};
use crate::http::Reply;
use crate::query::Query;
use crate::routes::Call;
use crate::server::Server;

/// `POST /containers/create`
pub(crate) async fn create(call: &mut Call<'_, '_>) -> Result<Reply> {
    let wanted: CreateContainer = call.document().await?;
    let platform = call.query.text("platform").map(str::parse).transpose()?;
    let given = Given {
        log_driver: !wanted.host_config.log_config.kind.is_empty(),
        ipc: !wanted.host_config.ipc_mode.is_empty(),
    };
    let (mut spec, mut warnings) = conversion::spec(wanted)?;
    spec.platform = platform;
    apply_defaults(&mut spec, &call.server.configuration, given)?;
    let name = call.query.text("name").map(|name| name.strip_prefix('/').unwrap_or(name).to_owned());
    let created = call.server.blocking(move |engine| engine.create(CreateRequest { spec, name })).await?;
    warnings.extend(created.warnings);
    Ok(Reply::json(201, &json!({ "Id": created.id.as_str(), "Warnings": warnings })))
}

/// `GET /containers/{id}/json`
pub(crate) async fn inspect(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let (text, sizes) = (name.to_owned(), call.query.truth("size"));
    let mut shape = call
        .server
        .blocking(move |engine| {
            let container = engine.container(&text)?;
            let sizes = if sizes { Some(engine.sizes(&container)?) } else { None };
            let host = rustix::system::uname();
            let facts = ContainerFacts {
                paths: engine.paths(),
                host_name: &host.nodename().to_string_lossy(),
                sizes,
                places: &engine.places(&container)?,
                apparmor: engine.apparmor_profile(&container.record.spec),
            };
            Ok(ContainerInspect::new(&container, facts))
        })
        .await?;
    shape.exec_ids = Some(call.server.execs.of(&shape.id)).filter(|ids| !ids.is_empty());
    Ok(Reply::json(200, &shape))
}

/// `POST /containers/{id}/start`
pub(crate) async fn start(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let server = call.server;
    let text = name.to_owned();
    let container = server.blocking(move |engine| engine.container(&text)).await?;
    if matches!(container.state.state, State::Running { paused: false, .. } | State::Restarting { .. }) {
        return Ok(Reply::empty(304));
    }
    let id = container.record.id.to_string();
    let seats = server.waiting.take(&id);
    let hello = seats.hello();
    let same = id.clone();
    match server.blocking(move |engine| engine.start(&same, hello)).await {
        Ok(started) => {
            seats.seat(server, &id, started.attachment).await;
            Ok(Reply::empty(204))
        }
        Err(failure) => {
            // Their streams end.
            drop(seats);
            if container.record.spec.auto_remove {
                let options = RemoveContainerOptions { force: true, volumes: true };
                let _ = server.blocking(move |engine| engine.remove(&id, options)).await;
                server.empty_trash_later();
            }
            Err(failure)
        }
    }
}

/// The signal and the seconds of `stop` and `restart`.
fn stop_options(query: &Query) -> Result<StopOptions> {
    Ok(StopOptions { signal: query.text("signal").map(str::to_owned), timeout: query.number("t")? })
}

/// `POST /containers/{id}/stop`
pub(crate) async fn stop(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let (text, options) = (name.to_owned(), stop_options(&call.query)?);
    let stopped = call.server.blocking(move |engine| {
        if !engine.container(&text)?.state.state.is_active() {
            return Ok(false);
        }
        engine.stop(&text, &options).map(|()| true)
    });
    Ok(Reply::empty(if stopped.await? { 204 } else { 304 }))
}

/// `POST /containers/{id}/restart`
pub(crate) async fn restart(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let (text, options) = (name.to_owned(), stop_options(&call.query)?);
    call.server.blocking(move |engine| engine.restart(&text, &options)).await?;
    Ok(Reply::empty(204))
}

/// `POST /containers/{id}/kill`
pub(crate) async fn kill(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let text = name.to_owned();
    let signal = call.query.text("signal").unwrap_or("SIGKILL").to_owned();
    call.server.blocking(move |engine| engine.kill(&text, &signal)).await?;
    Ok(Reply::empty(204))
}

/// `POST /containers/{id}/pause`
pub(crate) async fn pause(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let text = name.to_owned();
    call.server.blocking(move |engine| engine.pause(&text)).await?;
    Ok(Reply::empty(204))
}

/// `POST /containers/{id}/unpause`
pub(crate) async fn unpause(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let text = name.to_owned();
    let done = call.server.blocking(move |engine| engine.unpause(&text)).await;
    // Docker calls it a failure of its own.
    done.map_err(|failure| if failure.status == 409 { failure.with_status(500) } else { failure })?;
    Ok(Reply::empty(204))
}

/// The rows and columns of a terminal.
pub(crate) fn size(query: &Query) -> Result<(u16, u16)> {
    let number = |key: &str| -> Result<u16> {
        let number = query.number(key)?.and_then(|number| u16::try_from(number).ok());
        number.ok_or_else(|| {
            Failure::new(400, format!("invalid resize {key}: it must be a number below 65536"))
        })
    };
    Ok((number("h")?, number("w")?))
}

/// `POST /containers/{id}/resize`
pub(crate) async fn resize(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let (text, (rows, columns)) = (name.to_owned(), size(&call.query)?);
    call.server
        .blocking(move |engine| {
            let container = engine.container(&text)?;
            if !container.state.state.is_running() {
                return Err(robot_env_diag::Error::new(
                    Kind::Conflict,
                    format!("container {} is not running", container.record.id),
                ));
            }
            let hello = robot_env_engine::stream::Hello::default();
            engine.attach(&text, hello)?.send(&robot_env_engine::stream::Frame::Resize(rows, columns))?;
            engine.tell(
                &container.record,
                "resize",
                &[("height", rows.to_string()), ("width", columns.to_string())],
            );
            Ok(())
        })
        .await?;
    Ok(Reply::empty(200))
}

/// `POST /containers/{id}/rename`
pub(crate) async fn rename(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let text = name.to_owned();
    let Some(new) = call.query.text("name").map(str::to_owned) else {
        return Err(Failure::new(400, "Neither old nor new names may be empty"));
    };
    call.server.blocking(move |engine| engine.rename(&text, &new)).await?;
    Ok(Reply::empty(204))
}

/// `POST /containers/{id}/update`
pub(crate) async fn update(call: &mut Call<'_, '_>, name: &str) -> Result<Reply> {
    let wanted: UpdateContainer = call.document().await?;
    let restart = match wanted.restart_policy.filter(|policy| !policy.name.is_empty()) {
        Some(policy) => Some(conversion::restart_policy(&policy)?),
        None => None,
    };
    let request = UpdateRequest { resources: limits::resources(&wanted.resources)?, restart };
    let text = name.to_owned();
    let warnings = call.server.blocking(move |engine| engine.update(&text, request)).await?;
    Ok(Reply::json(200, &json!({ "Warnings": warnings })))
}

/// `DELETE /containers/{id}`
pub(crate) async fn remove(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    if call.query.truth("link") {
        return Err(Failure::new(501, "cannot remove a link: containers are not linked here"));
    }
    let options = RemoveContainerOptions { force: call.query.truth("force"), volumes: call.query.truth("v") };
    let text = name.to_owned();
    call.server.blocking(move |engine| engine.remove(&text, options)).await?;
    call.server.empty_trash_later();
    Ok(Reply::empty(204))
}

/// `GET /containers/{id}/top`
pub(crate) async fn top(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let text = name.to_owned();
    let arguments: Vec<String> =
        call.query.text("ps_args").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    // What the engine reads by itself is `ps -ef`.
    let arguments = if arguments == ["-ef"] { Vec::new() } else { arguments };
    let processes = call.server.blocking(move |engine| engine.top(&text, &arguments)).await?;
    Ok(Reply::json(200, &json!({ "Titles": processes.titles, "Processes": processes.rows })))
}

/// `GET /containers/{id}/changes`
pub(crate) async fn changes(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    use robot_env_layer::ChangeKind;
    let text = name.to_owned();
    let changes = call.server.blocking(move |engine| engine.changes(&text)).await?;
    if changes.is_empty() {
        return Ok(Reply::json(200, &serde_json::Value::Null));
    }
    let items = changes.iter().map(|change| {
        let kind = match change.kind {
            ChangeKind::Changed => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        };
        json!({ "Path": String::from_utf8_lossy(&change.path), "Kind": kind })
    });
    Ok(Reply::json(200, &items.collect::<Vec<_>>()))
}

/// A container in a server's hands.
pub(crate) async fn find(server: &'static Server, name: &str) -> Result<Container> {
    let text = name.to_owned();
    server.blocking(move |engine: &Engine| engine.container(&text)).await
}
