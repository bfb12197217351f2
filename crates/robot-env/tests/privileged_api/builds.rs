//! `/build` as the docker command and the SDKs ask for it.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::place::Place;
use crate::served::{Answer, Served};
use crate::tar_of_files;

/// The objects of a stream, and its text.
fn said(answer: &Answer) -> (Vec<Value>, String) {
    let text = String::from_utf8(answer.body.clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stream: String = lines.iter().filter_map(|line| line["stream"].as_str()).collect();
    (lines, stream)
}

#[test]
fn privileged_builds_speak_as_dockers_classic_builder() {
    let Some(place) = Place::new("api-build") else { return };
    let server = Served::new(&place, &[]);
    let file = "ARG B=busybox\nFROM $B\nARG WHAT=nothing\nENV A=b\nRUN echo out $WHAT; echo err >&2; echo é\nCOPY a /a\nCMD [\"cat\", \"/a\"]\n";
    let context = tar_of_files(&[("Dockerfile", file), ("a", "content\n"), ("b", "ignored")]);
    let path = "/v1.41/build?t=made&t=made%3Atwo&buildargs=%7B%22WHAT%22%3A%22some%22%7D&labels=%7B%22x%22%3A%22y%22%7D&networkmode=none&rm=1";
    let answer = server.send("POST", path, "Content-Type: application/x-tar\r\n", &context).status(200);
    assert!(answer.head.contains("application/json"), "{}", answer.head);
    let (lines, text) = said(&answer);
    for want in [
        "Step 1/6 : FROM $B\n ---> ",
        "Step 4/6 : RUN echo out $WHAT",
        "out some\n",
        "\u{1b}[91merr\n\u{1b}[0m",
        "é\n",
        "Step 6/6 : CMD [\"cat\", \"/a\"]\n ---> ",
        "Successfully tagged made:latest\nSuccessfully tagged made:two\n",
    ] {
        assert!(text.contains(want), "{want:?} is not in {text}");
    }
    let id = lines.iter().find_map(|line| line["aux"]["ID"].as_str()).unwrap().to_owned();
    let short = &id["sha256:".len()..][..12];
    assert!(text.contains(&format!("Successfully built {short}\n")), "{text}");
    let image = server.get("/images/made:two/json");
    assert_eq!(
        (&image["Id"], &image["Config"]["Labels"]["x"]),
        (&Value::from(id.clone()), &Value::from("y"))
    );
    assert_eq!(place.run(&format!("run --rm --network none {short}")).ok(), "content");

    // The same again, compressed, and quietly; what a step has made is used again.
    let compressed = zstd::encode_all(&context[..], 1).unwrap();
    let again = server.send("POST", &path.replace("t=made&", ""), "", &compressed).status(200);
    assert_eq!(said(&again).1.matches(" ---> Using cache\n").count(), 2, "{}", said(&again).1);
    let quiet = server.send("POST", "/build?q=1", "", &context).status(200);
    assert!(said(&quiet).1.starts_with("sha256:") && said(&quiet).0.len() == 1, "{quiet:?}");

    let usage = server.get("/system/df?type=build-cache");
    assert!(usage["BuildCache"].as_array().unwrap().len() >= 2, "{usage}");
    let gone = server.ask("POST", "/build/prune?all=true", None).status(200).json();
    assert!(gone["CachesDeleted"].as_array().unwrap().len() >= 2, "{gone}");
    assert_eq!(server.get("/system/df")["BuildCache"], serde_json::json!([]));
    let contexts = std::fs::read_dir(place.directory.join("root/build/contexts")).unwrap();
    assert_eq!(contexts.count(), 0, "a context is left");
}

#[test]
fn privileged_builds_that_fail_say_it_where_clients_look() {
    let Some(place) = Place::new("api-build-errors") else { return };
    let server = Served::new(&place, &[]);
    let build = |query: &str, file: &str| {
        let context = tar_of_files(&[("Dockerfile", file)]);
        server.send("POST", &format!("/build?networkmode=none&{query}"), "", &context)
    };
    for (query, file, status, message) in [
        ("", "FROM busybox\nCOPPY a b\n", 400, "dockerfile parse error line 2: unknown instruction: COPPY"),
        ("", " \n", 400, "the Dockerfile (Dockerfile) cannot be empty"),
        ("dockerfile=other", "FROM busybox\n", 500, "Cannot locate specified Dockerfile: other"),
        ("remote=x", "FROM busybox\n", 400, "remote URL \"x\" is no http, https or git address"),
    ] {
        let answer = build(query, file).status(status);
        assert_eq!(answer.json()["message"], message);
    }
    let (lines, text) = said(&build("", "FROM busybox\nRUN echo before; exit 3\n").status(200));
    let message = "The command '/bin/sh -c echo before; exit 3' returned a non-zero code: 3";
    let last = lines.last().unwrap();
    assert_eq!(last["errorDetail"], serde_json::json!({ "code": 3, "message": message }));
    assert_eq!(last["error"], message);
    assert!(
        text.contains("Step 2/2 : RUN") && text.contains("before\n") && !text.contains("Success"),
        "{text}"
    );
    let quiet = said(&build("q=1", "FROM busybox\nRUN echo before; exit 3\n").status(200));
    assert!(quiet.1.contains("before\n") && quiet.0.last().unwrap()["error"] == message, "{quiet:?}");
    let (lines, _) = said(&build("", "FROM busybox\nCOPY nothing /\n").status(200));
    assert!(lines.last().unwrap()["error"].as_str().unwrap().contains("nothing"), "{lines:?}");
    // Docker's client leaves out the end of a context that it has put a Dockerfile into.
    let mut short = tar_of_files(&[("a", "x"), ("Dockerfile", "FROM busybox\nCOPY a /\n")]);
    short.truncate(short.len() - 1024);
    let content = short.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    short.truncate(content);
    let (_, text) = said(&server.send("POST", "/build", "", &short).status(200));
    assert!(text.contains("Successfully built"), "{text}");
    short.truncate(content - 1);
    assert!(server.send("POST", "/build", "", &short).status >= 400);
    // A link in the context does not lead out of it.
    let link = crate::tar_of_link("Dockerfile", "/etc/hostname");
    let answer = server.send("POST", "/build", "", &link).status(500);
    assert_eq!(answer.json()["message"], "Cannot locate specified Dockerfile: Dockerfile");
    place.assert_empty();
}

#[test]
fn privileged_contexts_are_compressed_by_what_docker_takes() {
    let Some(place) = Place::new("api-build-compressed") else { return };
    let server = Served::new(&place, &[]);
    std::fs::write(place.directory.join("Dockerfile"), "FROM busybox\nCOPY a /a\n").unwrap();
    for (flag, magic) in [("-z", &b"\x1f\x8b"[..]), ("-j", b"BZh"), ("-J", b"\xfd7zXZ\0")] {
        std::fs::write(place.directory.join("a"), flag).unwrap();
        let tar = std::process::Command::new("tar")
            .args([flag, "-c", "Dockerfile", "a"])
            .current_dir(place.directory.path())
            .output()
            .unwrap();
        assert!(tar.status.success() && tar.stdout.starts_with(magic), "tar {flag}: {tar:?}");
        let (_, text) = said(&server.send("POST", "/build?t=packed", "", &tar.stdout).status(200));
        assert!(text.contains("Successfully tagged packed"), "{flag}: {text}");
        let got = place.run("run --rm --network none packed cat /a");
        assert_eq!(got.ok(), flag);
        // One that ends in its midst is no context.
        let cut = &tar.stdout[..tar.stdout.len() / 2];
        assert!(server.send("POST", "/build", "", cut).status >= 400, "{flag}");
    }
    let pruned =
        server.ask("POST", "/build/prune?filters=%7B%22type%22%3A%5B%22exec.cachemount%22%5D%7D", None);
    assert_eq!(pruned.status(200).json()["CachesDeleted"], serde_json::Value::Null);
    let pruned = server.ask("POST", "/build/prune?all=1&max-used-space=1000000000000", None);
    assert_eq!(pruned.status(200).json()["CachesDeleted"], serde_json::Value::Null);
    let pruned = server.ask("POST", "/build/prune?all=1", None).status(200).json();
    assert!(!pruned["CachesDeleted"].as_array().unwrap().is_empty(), "{pruned}");
}

#[test]
fn privileged_a_build_ends_with_its_client() {
    let Some(place) = Place::new("api-build-gone") else { return };
    let server = Served::new(&place, &[]);
    let context = tar_of_files(&[("Dockerfile", "FROM busybox\nRUN echo begun; sleep 1000\n")]);
    let steps = || {
        let all = std::fs::read_dir(place.directory.join("root/containers")).unwrap().flatten();
        all.filter(|entry| entry.file_name() != "by-name").count()
    };
    let begin = |query: &str| {
        let mut stream = server.connect();
        let head = format!(
            "POST /build?networkmode=none{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            context.len()
        );
        stream.write_all(&[head.as_bytes(), &context].concat()).unwrap();
        let mut seen = String::new();
        // Not the step, but what it says.
        while !seen.contains("begun\\n") {
            let mut piece = [0u8; 4096];
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        stream
    };
    let gone = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while steps() > 0 {
            assert!(Instant::now() < deadline, "a step goes on after its {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let stream = begin("");
    assert_eq!(steps(), 1);
    drop(stream);
    gone("client has gone");
    let mut stream = begin("&buildid=one");
    server.ask("POST", "/build/cancel?id=one", None).status(204);
    let mut rest = String::new();
    gone("build was cancelled");
    while !rest.contains("errorDetail") {
        let mut piece = [0u8; 4096];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "{rest}");
        rest.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    assert!(rest.contains("cancelled"), "{rest}");
}
