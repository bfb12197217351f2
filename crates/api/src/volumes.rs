//! `/volumes`.

use std::collections::BTreeMap;

use robot_env_diag::Kind;
use robot_env_engine::VolumeRequest;
use robot_env_wire::{CreateVolume, Volume};
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::filters;
use crate::http::Reply;
use crate::routes::Call;

/// `GET /volumes`
pub(crate) async fn list(call: &Call<'_, '_>) -> Result<Reply> {
    let filters = filters::of(&call.query, &["dangling", "driver", "label", "label!", "name"])?;
    let dangling = filters.truth("dangling")?;
    let volumes = call
        .server
        .blocking(move |engine| {
            let users = if dangling.is_some() { engine.volume_users()? } else { BTreeMap::new() };
            let mut volumes: Vec<Volume> = engine.volumes()?.iter().map(Volume::new).collect();
            volumes.retain(|volume| {
                let labels = volume.labels.clone().unwrap_or_default();
                dangling.is_none_or(|wanted| users.contains_key(&volume.name) != wanted)
                    && filters.any("driver", |driver| driver == volume.driver)
                    && filters.any_pattern("name", &[&volume.name])
                    && filters.labels(&labels)
            });
            Ok(volumes)
        })
        .await?;
    Ok(Reply::json(200, &json!({ "Volumes": volumes, "Warnings": null })))
}

/// `POST /volumes/create`
pub(crate) async fn create(call: &mut Call<'_, '_>) -> Result<Reply> {
    let wanted: CreateVolume = call.optional_document().await?.unwrap_or_default();
    if !matches!(wanted.driver.as_str(), "" | "local") {
        return Err(Failure::new(
            404,
            format!(
                "create {}: error looking up volume plugin {}: plugin \"{}\" not found",
                wanted.name, wanted.driver, wanted.driver
            ),
        ));
    }
    let request = VolumeRequest {
        name: Some(wanted.name).filter(|name| !name.is_empty()),
        labels: wanted.labels,
        options: wanted.driver_opts,
    };
    let volume = call.server.blocking(move |engine| engine.create_volume(request)).await?;
    Ok(Reply::json(201, &Volume::new(&volume)))
}

/// `GET /volumes/{name}`
pub(crate) async fn inspect(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let text = name.to_owned();
    let volume = call.server.blocking(move |engine| engine.volume(&text)).await?;
    Ok(Reply::json(200, &Volume::new(&volume)))
}

/// `DELETE /volumes/{name}`
pub(crate) async fn remove(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let (text, force) = (name.to_owned(), call.query.truth("force"));
    let removed = call.server.blocking(move |engine| match engine.remove_volume(&text) {
        Err(error) if force && error.kind() == Kind::NotFound => Ok(()),
        done => done,
    });
    removed.await?;
    Ok(Reply::empty(204))
}

/// `POST /volumes/prune`
pub(crate) async fn prune(call: &Call<'_, '_>) -> Result<Reply> {
    let filters = filters::of(&call.query, &["all", "label", "label!"])?;
    // Before version 1.42 there was no difference between named and anonymous ones.
    let all = filters.truth("all")?.unwrap_or(false) || call.version < crate::routes::Version(1, 42);
    let pruned = call.server.blocking(move |engine| {
        engine.prune_volumes(|volume| (all || volume.anonymous) && filters.labels(&volume.labels))
    });
    let pruned = pruned.await?;
    call.server.empty_trash_later();
    Ok(Reply::json(200, &json!({ "VolumesDeleted": pruned.names, "SpaceReclaimed": pruned.bytes })))
}
