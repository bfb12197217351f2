//! The protocol, spoken by a client of our own that can misbehave: no command runs in these builds, so
//! that no other program is needed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use robot_env_engine::{Engine, EngineOptions};
use robot_env_testkit::temporary::TemporaryDirectory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::grpc::{Channel, Incoming, Status, serve};
use super::messages::control::{
    DiskUsageRequest, DiskUsageResponse, Exporter, PruneRequest, SolveRequest, SolveResponse, StatusRequest,
    StatusResponse, UsageRecord,
};
use super::messages::gateway::{self, PongResponse, References, ReturnRequest};
use super::messages::session::{Bytes, FileStat, HealthResponse, Packet, PacketKind};
use super::messages::{Attributes, Empty};
use super::tree::go;
use crate::ServeOptions;
use crate::server::Server;

const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";

/// A client with files.
#[derive(Default)]
struct Client {
    /// By directory and path.
    files: Vec<(&'static str, FileStat, Vec<u8>)>,
    /// How often content was asked for.
    asked: AtomicUsize,
    mischief: Mischief,
    /// What it got, by output.
    received: Mutex<HashMap<String, Vec<u8>>>,
}

/// What it does to the context.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mischief {
    #[default]
    None,
    /// It describes a file above the directory.
    Escape,
    /// It sends what nobody asked for.
    Unasked,
    /// It says nothing any more.
    Silence,
    /// It goes.
    Flight,
}

fn file(path: &str, content: &str) -> FileStat {
    FileStat {
        path: path.into(),
        mode: 0o644,
        size: content.len() as i64,
        modified: 5,
        ..FileStat::default()
    }
}

impl Client {
    fn new(dockerfile: &str, context: &[(&str, &str)], mischief: Mischief) -> Arc<Client> {
        let mut files = vec![("dockerfile", file("Dockerfile", dockerfile), dockerfile.as_bytes().to_vec())];
        for (path, content) in context {
            let stat = match content {
                &"/" => FileStat { path: (*path).into(), mode: go::DIRECTORY | 0o755, ..FileStat::default() },
                _ => file(path, content),
            };
            files.push(("context", stat, content.as_bytes().to_vec()));
        }
        Arc::new(Client { files, mischief, ..Client::default() })
    }

    async fn answer(self: Arc<Client>, call: Incoming) {
        match call.path.as_str() {
            "/grpc.health.v1.Health/Check" => call.answer.whole(Ok(HealthResponse { status: 1 })).await,
            "/moby.filesync.v1.FileSync/DiffCopy" => drop(self.send(call).await),
            "/moby.filesync.v1.FileSend/DiffCopy" => drop(self.receive(call).await),
            other => call.answer.end(Err(Status::unimplemented(other))),
        }
    }

    async fn send(&self, call: Incoming) -> Result<(), Status> {
        let Incoming { metadata, mut messages, mut answer, .. } = call;
        let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (name, only) = (text("dir-name").to_owned(), text("followpaths").to_owned());
        let packet =
            |kind, id, stat, data: &[u8]| Packet { kind: kind as i32, stat, id, data: data.to_vec() };
        let context = name == "context" && only != ".dockerignore";
        match self.mischief {
            Mischief::Escape if context => {
                let stat = file("../escaped", "x");
                answer.send(&packet(PacketKind::Stat, 0, Some(stat), b"")).await?;
            }
            Mischief::Unasked if context => {
                answer.send(&packet(PacketKind::Stat, 0, Some(file("a", "x")), b"")).await?;
                answer.send(&packet(PacketKind::Stat, 0, None, b"")).await?;
                answer.send(&packet(PacketKind::Data, 77, None, b"x")).await?;
            }
            Mischief::Silence if context => std::future::pending().await,
            _ => {}
        }
        let mine: Vec<_> = self.files.iter().filter(|(of, ..)| *of == name).collect();
        let mine: Vec<_> =
            mine.into_iter().filter(|(_, stat, _)| only != ".dockerignore" || stat.path == only).collect();
        for (_, stat, _) in &mine {
            answer.send(&packet(PacketKind::Stat, 0, Some(stat.clone()), b"")).await?;
        }
        answer.send(&packet(PacketKind::Stat, 0, None, b"")).await?;
        while let Some(asked) = messages.next::<Packet>().await? {
            match PacketKind::try_from(asked.kind) {
                Ok(PacketKind::Request) => {
                    self.asked.fetch_add(1, Ordering::SeqCst);
                    let content = &mine[asked.id as usize].2;
                    for piece in content.chunks(7) {
                        answer.send(&packet(PacketKind::Data, asked.id, None, piece)).await?;
                    }
                    answer.send(&packet(PacketKind::Data, asked.id, None, b"")).await?;
                }
                Ok(PacketKind::Finish) => {
                    answer.send(&packet(PacketKind::Finish, 0, None, b"")).await?;
                    break;
                }
                _ => break,
            }
        }
        answer.end(Ok(()));
        Ok(())
    }

    async fn receive(&self, call: Incoming) -> Result<(), Status> {
        let Incoming { metadata, mut messages, answer, .. } = call;
        let id = metadata["buildkit-attachable-exporter-id"].to_str().unwrap_or_default().to_owned();
        let mut all = Vec::new();
        while let Some(piece) = messages.next::<Bytes>().await? {
            all.extend(piece.data);
        }
        self.received.lock().unwrap().insert(id, all);
        answer.end(Ok(()));
        Ok(())
    }
}

/// A server of its own, below temporary roots.
fn server(place: &Path) -> &'static Server {
    let engine = Engine::open(&EngineOptions {
        root: place.join("root"),
        run_root: place.join("run"),
        rootless: false,
        single_id: false,
    });
    let options = ServeOptions {
        engine: engine.unwrap(),
        socket: place.join("socket"),
        group: None,
        tls: None,
        activated: Vec::new(),
        idle: None,
        registry: robot_env_registry::ClientOptions::default(),
        configuration: robot_env_config::Configuration::default(),
        version: "0",
        path: String::new(),
        ready: |_| {},
    };
    Box::leak(Box::new(Server::new(options).unwrap()))
}

/// A connection that was taken over.
async fn connected(server: &'static Server, path: &str, fields: &str) -> Result<UnixStream, String> {
    let (near, mut far) = UnixStream::pair().unwrap();
    server.welcome(near);
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{fields}\r\n");
    far.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match far.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8(head).unwrap();
    if head.starts_with("HTTP/1.1 101 ") { Ok(far) } else { Err(head) }
}

async fn control(server: &'static Server) -> Channel {
    let (channel, connection) = Channel::open(connected(server, "/grpc", "").await.unwrap()).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    channel
}

/// Opens a session; it ends when what is returned is aborted.
async fn session(server: &'static Server, id: &str, client: &Arc<Client>) -> tokio::task::JoinHandle<()> {
    let fields = format!(
        "X-Docker-Expose-Session-Uuid: {id}\r\nX-Docker-Expose-Session-Sharedkey: dir:me\r\n\
         X-Docker-Expose-Session-Grpc-Method: /moby.filesync.v1.FileSync/DiffCopy\r\n\
         X-Docker-Expose-Session-Grpc-Method: /moby.filesync.v1.FileSend/DiffCopy\r\n"
    );
    let stream = connected(server, "/session", &fields).await.unwrap();
    let client = client.clone();
    tokio::spawn(async move { drop(serve(stream, move |call| client.clone().answer(call)).await) })
}

fn solving(reference: &str, session: &str, frontend: &str, output: Option<(&str, &str)>) -> SolveRequest {
    let exporters = output.into_iter().map(|(kind, name)| Exporter {
        kind: kind.into(),
        attributes: if name.is_empty() {
            Attributes::new()
        } else {
            [("name".to_owned(), name.to_owned())].into()
        },
    });
    SolveRequest {
        reference: reference.into(),
        session: session.into(),
        frontend: frontend.into(),
        exporters: exporters.collect(),
        ..SolveRequest::default()
    }
}

fn run(test: impl AsyncFnOnce(&'static Server, &Path)) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let place = TemporaryDirectory::new("buildkit");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = server(place.path());
        tokio::time::timeout(Duration::from_secs(60), test(server, place.path())).await.unwrap();
    });
    runtime.shutdown_background();
}

const COPY: &str = "FROM scratch\nCOPY . /\nLABEL a=b\n";

#[test]
fn privileged_a_build_is_driven_as_buildx_does_it() {
    run(async |server, _| {
        let client =
            Client::new(COPY, &[("a", "hello"), ("d", "/"), ("d/f", &"long ".repeat(100))], Mischief::None);
        let control = control(server).await;
        for round in 0..2 {
            let id = format!("s{round}");
            let session = session(server, &id, &client).await;
            let name = format!("job{round}");
            let solving = solving(&name, &id, "", Some(("moby", "made:here,made:too")));
            let solve = control.unary::<SolveResponse>(SOLVE, &solving);
            let told = async {
                let question = StatusRequest { reference: name.clone() };
                let (mut sink, mut replies) =
                    control.call("/moby.buildkit.v1.Control/Status", &[]).await.unwrap();
                sink.send(&question).await.unwrap();
                sink.close().unwrap();
                let mut told = Vec::new();
                while let Some(message) = replies.next::<StatusResponse>().await.unwrap() {
                    told.extend(message.vertexes);
                }
                told
            };
            let drive = async {
                let build = [("buildkit-controlapi-buildid", name.clone())];
                let ask = async |method: &str, question: Vec<u8>| {
                    let path = format!("/moby.buildkit.v1.frontend.LLBBridge/{method}");
                    let (mut sink, replies) = control.call(&path, &build).await.unwrap();
                    sink.send(&Raw(question)).await.unwrap();
                    sink.close().unwrap();
                    (sink, replies)
                };
                let (_sink, mut replies) = ask("Ping", Vec::new()).await;
                let pong = replies.next::<PongResponse>().await.unwrap().unwrap();
                assert!(pong.frontend.iter().any(|capability| capability.id == "return"));
                let request = gateway::SolveRequest {
                    frontend: "dockerfile.v0".into(),
                    attributes: [("filename".to_owned(), "Dockerfile".to_owned())].into(),
                    ..gateway::SolveRequest::default()
                };
                let (_sink, mut replies) = ask("Solve", prost::Message::encode_to_vec(&request)).await;
                let solved = replies.next::<gateway::SolveResponse>().await.unwrap().unwrap();
                let result = solved.result.unwrap();
                assert!(matches!(result.references, Some(References::One(_))));
                let request = ReturnRequest { result: Some(result), error: None };
                let (_sink, mut replies) = ask("Return", prost::Message::encode_to_vec(&request)).await;
                replies.next::<Empty>().await.unwrap().unwrap();
            };
            let (solved, told, ()) = tokio::join!(solve, told, drive);
            let attributes = solved.unwrap().exporter;
            assert_eq!(attributes["image.name"], "docker.io/library/made:here,docker.io/library/made:too");
            let image = server.engine.store().resolve("made:too").unwrap();
            assert_eq!(attributes["containerimage.config.digest"], image.id.to_string());
            let labels = &server.engine.store().config(&image.id).unwrap().into_value().config.labels;
            assert_eq!(labels["a"], "b");
            let copied = |vertex: &&super::messages::control::Vertex| vertex.name.ends_with("COPY . /");
            let last = told.iter().rfind(copied).unwrap();
            assert!(last.completed.is_some() && last.error.is_empty());
            assert_eq!(last.cached, round == 1, "{told:?}");
            session.abort();
        }
        // The Dockerfile twice, each file of the context once: it was kept.
        assert_eq!(client.asked.load(Ordering::SeqCst), 4);
    });
}

/// A message that is encoded already.
#[derive(Clone, Debug, Default, PartialEq)]
struct Raw(Vec<u8>);

impl prost::Message for Raw {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {}
}

#[test]
fn privileged_what_builds_keep_is_listed_and_pruned() {
    run(async |server, _| {
        let client = Client::new(COPY, &[("a", "hello")], Mischief::None);
        let control = control(server).await;
        let _session = session(server, "s", &client).await;
        control.unary::<SolveResponse>(SOLVE, &solving("job", "s", "dockerfile.v0", None)).await.unwrap();
        let usage = async |filters: &[&str], age_limit| {
            let filters = filters.iter().map(|text| (*text).to_owned()).collect();
            let question = DiskUsageRequest { filters, age_limit };
            let path = "/moby.buildkit.v1.Control/DiskUsage";
            let answer = control.unary::<DiskUsageResponse>(path, &question).await;
            answer.map(|usage| usage.records)
        };
        let all = usage(&[], 0).await.unwrap();
        let copied = all.iter().find(|record| record.description.contains("COPY")).unwrap();
        assert!(copied.size > 0 && copied.last_used.is_some() && !copied.mutable, "{copied:?}");
        let by_id = format!("id~=^{}", &copied.id[..8]);
        for (filters, age_limit, want) in [
            (&[by_id.as_str()][..], 0, 1),
            (&["type==regular"], 0, all.len()),
            (&["type==exec.cachemount"], 0, 0),
            (&["mutable", "description~=COPY,immutable"], 0, 1),
            (&[""], 0, all.len()),
            (&[], 3_600_000_000_000, 0),
        ] {
            assert_eq!(usage(filters, age_limit).await.unwrap().len(), want, "{filters:?}");
        }
        assert!(usage(&["nothing==1"], 0).await.unwrap_err().message.contains("no field `nothing`"));
        let prune = async |question: PruneRequest| {
            let (mut sink, mut replies) = control.call("/moby.buildkit.v1.Control/Prune", &[]).await.unwrap();
            sink.send(&question).await.unwrap();
            sink.close().unwrap();
            let mut gone = Vec::new();
            while let Some(record) = replies.next::<UsageRecord>().await.unwrap() {
                gone.push(record);
            }
            gone
        };
        let young = PruneRequest { keep_duration: 3_600_000_000_000, ..PruneRequest::default() };
        let roomy = PruneRequest { max_used_space: 1 << 40, ..PruneRequest::default() };
        let free = PruneRequest { min_free_space: 1, ..PruneRequest::default() };
        let others =
            PruneRequest { filters: vec!["type==exec.cachemount".to_owned()], ..PruneRequest::default() };
        for question in [young, roomy, free, others] {
            assert_eq!(prune(question).await, []);
        }
        let one = PruneRequest { filters: vec![by_id.clone()], all: true, ..PruneRequest::default() };
        let gone = prune(one).await;
        assert!(gone.len() == 1 && gone[0].id == copied.id, "{gone:?}");
        assert_eq!(usage(&[], 0).await.unwrap().len(), all.len() - 1);
        let rest = prune(PruneRequest { all: true, ..PruneRequest::default() }).await;
        assert!(rest.iter().any(|record| record.kind == "source.local"), "{rest:?}");
        assert_eq!(usage(&[], 0).await.unwrap(), []);
    });
}

#[test]
fn privileged_frontends_of_dockerfiles_are_built_in_and_others_are_named() {
    run(async |server, _| {
        let control = control(server).await;
        let build = async |name: &str, dockerfile: &str, image: Option<&str>| {
            let client = Client::new(dockerfile, &[("a", "x")], Mischief::None);
            let session = session(server, name, &client).await;
            let mut wanted = solving(name, name, "dockerfile.v0", Some(("moby", name)));
            if let Some(image) = image {
                wanted.frontend = "gateway.v0".into();
                for key in ["source", "cmdline", "build-arg:BUILDKIT_SYNTAX"] {
                    wanted.attributes.insert(key.into(), image.into());
                }
            }
            let done = control.unary::<SolveResponse>(SOLVE, &wanted).await;
            session.abort();
            done.map_err(|status| status.message)
        };
        let syntax = |image: &str| format!("# syntax={image}\n{COPY}");
        build("line", &syntax("docker/dockerfile:1"), None).await.unwrap();
        build("argument", COPY, Some("docker/dockerfile:1")).await.unwrap();
        let other = syntax("someone/frontend:3");
        for (name, dockerfile, image) in
            [("other-line", other.as_str(), None), ("other-argument", COPY, Some("someone/frontend:3"))]
        {
            let said = build(name, dockerfile, image).await.unwrap_err();
            assert!(said.contains("cannot build by frontend `someone/frontend:3`"), "{said}");
        }
    });
}

#[test]
fn privileged_outputs_reach_the_client() {
    run(async |server, _| {
        let client = Client::new(COPY, &[("a", "hello")], Mischief::None);
        let control = control(server).await;
        let _session = session(server, "s", &client).await;
        let solving = solving("job", "s", "dockerfile.v0", Some(("tar", "")));
        control.unary::<SolveResponse>(SOLVE, &solving).await.unwrap();
        let received = client.received.lock().unwrap();
        let tar = String::from_utf8_lossy(&received["0"]);
        assert!(tar.contains("hello") && tar.contains("ustar"));
        assert!(server.engine.store().names().unwrap().is_empty());
    });
}

#[test]
fn privileged_clients_that_misbehave_harm_nobody() {
    run(async |server, place| {
        let control = control(server).await;
        for (number, mischief, says) in [
            (0, Mischief::Escape, "../escaped"),
            (1, Mischief::Unasked, "not asked for"),
            (2, Mischief::Flight, "no active session"),
        ] {
            let client = Client::new(COPY, &[("a", "x")], mischief);
            let id = format!("s{number}");
            let session = session(server, &id, &client).await;
            if mischief == Mischief::Flight {
                session.abort();
                let _ = session.await;
            }
            let solving = solving(&format!("job{number}"), &id, "dockerfile.v0", Some(("moby", "")));
            let error = control.unary::<SolveResponse>(SOLVE, &solving).await.unwrap_err();
            assert!(error.message.contains(says), "{error}");
        }
        assert!(!place.join("root/build/clients/escaped").exists());
        for question in [
            SolveRequest { reference: String::new(), ..SolveRequest::default() },
            solving("other", "s0", "gateway.v0", None),
            SolveRequest {
                definition: Some(super::messages::Definition {
                    operations: vec![vec![1]],
                    ..Default::default()
                }),
                ..solving("graph", "s0", "", None)
            },
        ] {
            assert!(control.unary::<SolveResponse>(SOLVE, &question).await.is_err());
        }
        let client = Client::new(COPY, &[("a", "fine")], Mischief::None);
        let _session = session(server, "fine", &client).await;
        let fine = solving("fine", "fine", "dockerfile.v0", Some(("moby", "fine")));
        control.unary::<SolveResponse>(SOLVE, &fine).await.unwrap();
        assert!(control.unary::<SolveResponse>(SOLVE, &fine).await.is_err(), "the name was used");
    });
}

#[test]
fn privileged_a_build_ends_with_its_client() {
    run(async |server, _| {
        for way in ["session", "call"] {
            let client = Client::new(COPY, &[("a", "x")], Mischief::Silence);
            let control = control(server).await;
            let session = session(server, way, &client).await;
            let solving = solving(way, way, "dockerfile.v0", Some(("moby", "")));
            let (mut sink, mut replies) = control.call(SOLVE, &[]).await.unwrap();
            sink.send(&solving).await.unwrap();
            sink.close().unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let job = server.builds.jobs.find(way).await.unwrap();
            assert!(!job.cancel.is_cancelled());
            if way == "session" {
                session.abort();
                assert!(replies.next::<SolveResponse>().await.is_err());
            } else {
                sink.cancel();
                drop(replies);
            }
            while !job.cancel.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
}

#[test]
fn privileged_connections_that_are_none_are_refused() {
    run(async |server, _| {
        let answered = connected(server, "/session", "").await.unwrap_err();
        assert!(answered.starts_with("HTTP/1.1 400 "), "{answered}");
        let client = Client::new(COPY, &[], Mischief::None);
        let first = session(server, "twice", &client).await;
        server.builds.sessions.find("twice").await.unwrap_or_else(|status| panic!("{status}"));
        // The second of the same name ends at once.
        session(server, "twice", &client).await.await.unwrap();
        assert!(!first.is_finished());
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096]] {
            let mut stream = connected(server, "/grpc", "").await.unwrap();
            let _ = stream.write_all(garbage).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        let control = control(server).await;
        let unknown = control.unary::<Empty>("/moby.buildkit.v1.Control/Nothing", &Empty {}).await;
        assert_eq!(unknown.unwrap_err().code, super::grpc::Code::UNIMPLEMENTED);
        let health = control.unary::<HealthResponse>("/grpc.health.v1.Health/Check", &Empty {}).await;
        assert_eq!(health.unwrap().status, 1);
    });
}

#[test]
fn privileged_a_session_through_a_call_of_control() {
    run(async |server, _| {
        let client = Client::new(COPY, &[("a", "x")], Mischief::None);
        let control = control(server).await;
        let metadata = [
            ("x-docker-expose-session-uuid", "tunnel".to_owned()),
            ("x-docker-expose-session-grpc-method", "/moby.filesync.v1.FileSync/DiffCopy".to_owned()),
        ];
        let (mut sink, mut replies) =
            control.call("/moby.buildkit.v1.Control/Session", &metadata).await.unwrap();
        let (near, far) = tokio::io::duplex(4096);
        let (mut from, mut to) = tokio::io::split(near);
        tokio::spawn(async move {
            while let Ok(Some(piece)) = replies.next::<Bytes>().await {
                to.write_all(&piece.data).await.unwrap();
            }
        });
        tokio::spawn(async move {
            let mut buffer = [0; 1000];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                sink.send(&Bytes { data: buffer[..count].to_vec() }).await.unwrap();
            }
        });
        tokio::spawn(async move { drop(serve(far, move |call| client.clone().answer(call)).await) });
        let solving = solving("job", "tunnel", "dockerfile.v0", Some(("moby", "by:tunnel")));
        control.unary::<SolveResponse>(SOLVE, &solving).await.unwrap();
        server.engine.store().resolve("by:tunnel").unwrap();
    });
}
