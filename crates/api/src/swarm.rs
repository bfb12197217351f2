//! What an engine answers that is no part of a swarm and has no plugins.

use crate::failure::{Failure, Result};
use crate::http::{Method, Reply};

const NO_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";

/// Answers what no other route has: swarms, plugins, and pages that do not exist.
pub(crate) fn answer(method: Method, words: &[&str]) -> Result<Reply> {
    use Method::{Delete, Get, Post};
    let failed = |status: u16, message: &str| Err(Failure::new(status, message));
    match (method, words) {
        (Post, ["swarm", "init" | "join"]) => failed(501, "swarms are not supported"),
        (Post, ["swarm", "leave"]) => failed(503, "This node is not part of a swarm"),
        (Get | Post, ["swarm", ..])
        | (
            Get | Post | Delete,
            ["nodes" | "services" | "tasks" | "secrets" | "configs"]
            | ["nodes" | "services" | "tasks" | "secrets" | "configs", _]
            | ["nodes" | "services" | "tasks" | "secrets" | "configs", _, _],
        ) => failed(503, NO_MANAGER),
        (Get, ["plugins"]) => Ok(Reply::json(200, &[(); 0])),
        (Get | Post | Delete, ["plugins", name, ..]) if !name.is_empty() => {
            let name = words[1..]
                .iter()
                .copied()
                .filter(|word| !matches!(*word, "json" | "enable" | "disable" | "set" | "push" | "upgrade"));
            let name = name.collect::<Vec<_>>().join("/");
            if matches!(name.as_str(), "pull" | "create" | "privileges") {
                return failed(501, "plugins are not supported");
            }
            failed(404, &format!("plugin \"{name}\" not found"))
        }
        (Get, ["build", "cache"]) => Err(Failure::no_page()),
        (Post, ["build", "prune"]) => {
            Ok(Reply::json(200, &serde_json::json!({ "CachesDeleted": [], "SpaceReclaimed": 0 })))
        }
        _ => Err(Failure::no_page()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_has_dockers_status() {
        for (method, path, want) in [
            (Method::Get, "swarm", 503),
            (Method::Post, "swarm/leave", 503),
            (Method::Get, "nodes", 503),
            (Method::Get, "services/x", 503),
            (Method::Get, "plugins/a/b/json", 404),
            (Method::Get, "nothing", 404),
            (Method::Other, "info", 404),
        ] {
            let words: Vec<&str> = path.split('/').collect();
            assert_eq!(answer(method, &words).map_or_else(|f| f.status, |r| r.status), want, "{path}");
        }
        assert_eq!(answer(Method::Get, &["plugins"]).map(|reply| reply.status), Ok(200));
    }
}
