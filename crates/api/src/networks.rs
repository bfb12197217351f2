//! `/networks`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use robot_env_engine::NetworkRequest;
use robot_env_wire::{ConnectNetwork, CreateNetwork, Network};
use serde_json::json;

use crate::containers::endpoint;
use crate::failure::{Failure, Result};
use crate::filters;
use crate::http::Reply;
use crate::routes::Call;

/// `GET /networks`
pub(crate) async fn list(call: &Call<'_, '_>) -> Result<Reply> {
    let filters =
        filters::of(&call.query, &["dangling", "driver", "id", "label", "label!", "name", "scope", "type"])?;
    let dangling = filters.truth("dangling")?;
    let shapes = call
        .server
        .blocking(move |engine| {
            let used: BTreeSet<String> = if dangling.is_some() {
                let containers = engine.containers()?;
                let places = containers.iter().flat_map(|container| container.record.spec.places());
                places.map(|place| place.network).collect()
            } else {
                BTreeSet::new()
            };
            let shapes = engine.networks()?.into_iter().filter_map(|record| {
                let shape = Network::new(&record, &BTreeMap::new());
                let unused = !record.is_predefined() && !used.contains(&shape.name);
                let kind = if record.is_predefined() { "builtin" } else { "custom" };
                let fits = dangling.is_none_or(|wanted| unused == wanted)
                    && filters.any("driver", |driver| driver == shape.driver)
                    && filters.any("id", |id| shape.id.starts_with(id))
                    && filters.any_pattern("name", &[&shape.name])
                    && filters.any("scope", |scope| scope == shape.scope)
                    && filters.any("type", |value| value == kind)
                    && filters.labels(&shape.labels);
                fits.then_some(shape)
            });
            Ok(shapes.collect::<Vec<_>>())
        })
        .await?;
    Ok(Reply::json(200, &shapes))
}

/// `GET /networks/{id}`
pub(crate) async fn inspect(call: &Call<'_, '_>, id: &str) -> Result<Reply> {
    let text = id.to_owned();
    let shape = call.server.blocking(move |engine| {
        let record = engine.network(&text)?;
        let endpoints = engine.endpoints(&record)?;
        Ok(Network::new(&record, &endpoints))
    });
    Ok(Reply::json(200, &shape.await?))
}

/// `POST /networks/create`
pub(crate) async fn create(call: &mut Call<'_, '_>) -> Result<Reply> {
    let wanted: CreateNetwork = call.document().await?;
    let refuse =
        |what: &str| Err(Failure::new(501, format!("cannot create network `{}`: {what}", wanted.name)));
    if !matches!(wanted.scope.as_str(), "" | "local") || wanted.ingress {
        return refuse("networks of a swarm are not supported");
    }
    if wanted.config_only {
        return refuse("networks that are configurations alone are not supported");
    }
    if !matches!(wanted.ipam.driver.as_str(), "" | "default") {
        return refuse("there is only the IPAM driver `default`");
    }
    if wanted.enable_ipv4 == Some(false) {
        return refuse("IPv4 cannot be switched off");
    }
    let ranges = &wanted.ipam.config;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let request = NetworkRequest {
        subnets: ranges.iter().filter_map(|range| some(&range.subnet)).collect(),
        ip_ranges: ranges.iter().filter_map(|range| some(&range.ip_range)).collect(),
        gateways: ranges.iter().filter_map(|range| some(&range.gateway)).collect(),
        reserved: ranges.iter().flat_map(|range| range.auxiliary_addresses.clone()).collect(),
        driver: some(&wanted.driver),
        internal: wanted.internal,
        ipv6: wanted.enable_ipv6.unwrap_or(false),
        attachable: wanted.attachable,
        labels: wanted.labels.clone(),
        options: wanted.options.clone(),
        name: wanted.name.clone(),
    };
    let record = call.server.blocking(move |engine| engine.create_network(&request)).await?;
    Ok(Reply::json(201, &json!({ "Id": record.network.id, "Warning": "" })))
}

/// `DELETE /networks/{id}`
pub(crate) async fn remove(call: &Call<'_, '_>, id: &str) -> Result<Reply> {
    let text = id.to_owned();
    let removed = call.server.blocking(move |engine| engine.remove_network(&text)).await;
    // One that is used is forbidden to be removed, in Docker's words.
    removed.map_err(|failure| if failure.status == 409 { failure.with_status(403) } else { failure })?;
    Ok(Reply::empty(204))
}

/// `POST /networks/{id}/connect`
pub(crate) async fn connect(call: &mut Call<'_, '_>, id: &str) -> Result<Reply> {
    let wanted: ConnectNetwork = call.document().await?;
    let place = endpoint(id, wanted.endpoint_config.unwrap_or_default())?;
    let text = id.to_owned();
    let done = call.server.blocking(move |engine| engine.connect(&text, &wanted.container, place)).await;
    done.map_err(|failure| if failure.status == 409 { failure.with_status(403) } else { failure })?;
    Ok(Reply::empty(200))
}

/// `POST /networks/{id}/disconnect`
pub(crate) async fn disconnect(call: &mut Call<'_, '_>, id: &str) -> Result<Reply> {
    let wanted: ConnectNetwork = call.document().await?;
    let text = id.to_owned();
    let done =
        call.server.blocking(move |engine| engine.disconnect(&text, &wanted.container, wanted.force)).await;
    done.map_err(|failure| if failure.status == 409 { failure.with_status(403) } else { failure })?;
    Ok(Reply::empty(200))
}

/// `POST /networks/prune`
pub(crate) async fn prune(call: &Call<'_, '_>) -> Result<Reply> {
    let filters = filters::of(&call.query, &["label", "label!", "until"])?;
    let until = filters::until(&filters, Timestamp::now())?;
    let gone = call.server.blocking(move |engine| {
        if engine.is_rootless() {
            return Ok(Vec::new());
        }
        let gone = engine.prune_networks(|record| {
            filters.labels(&record.network.labels) && until.is_none_or(|until| record.created <= until)
        })?;
        engine.retire_idle_networks()?;
        Ok(gone)
    });
    let gone = Some(gone.await?).filter(|gone| !gone.is_empty());
    Ok(Reply::json(200, &json!({ "NetworksDeleted": gone })))
}
