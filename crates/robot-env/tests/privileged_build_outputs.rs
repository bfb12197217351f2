//! What becomes of builds: outputs, caches that go from machine to machine, several platforms.

mod place;

use std::fs;
use std::path::Path;

use place::{Place, build, context, prints, shell};
use robot_env_testkit::image::{Compression, Entry, ImageBuilder};
use robot_env_testkit::registry::TestRegistry;

const TEXT: &str = "\
FROM busybox AS tools
RUN echo tool > /tool
FROM busybox
COPY --chown=7 a.txt /srv/
RUN rm /data/from-image; echo made > /made
COPY --from=tools /tool /srv/tool
";

#[test]
fn privileged_results_go_where_the_outputs_say() {
    let Some(place) = Place::new("build-out") else { return };
    let directory = context(&place, "ctx", TEXT, &[("a.txt", "A")]);
    let out = place.directory.join("out");
    let at = |name: &str| out.join(name).display().to_string();
    let done =
        build(&place, &directory, &["-o", &at("files"), "-o", &format!("type=tar,dest={}", at("f.tar"))]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.err.contains("exporting to client directory"), "{}", done.err);
    let look = "cat made srv/a.txt srv/tool; stat -c %u srv/a.txt; ls data; ls -d bin/busybox";
    assert_eq!(shell(&out.join("files"), look), "made\nAtool\n0\nbin/busybox");
    let list = shell(&out, "tar -tf f.tar made srv/tool; tar -tvf f.tar srv/a.txt | cut -d' ' -f2");
    assert_eq!(list, "made\nsrv/tool\n7/7");
    // No image stays of files.
    assert_eq!(place.run("images -q").ok().lines().count(), 2);
    let piped = place.command(&["build", "-q", "-o", "-", directory.to_str().unwrap()]);
    let mut piped = piped.0;
    let piped = piped.output().unwrap();
    assert!(piped.status.success());
    fs::write(out.join("piped.tar"), &piped.stdout[..piped.stdout.len()]).unwrap();
    assert_eq!(shell(&out, "tar -xOf piped.tar made"), "made");

    // Archives load elsewhere, as the image that they are.
    let outputs = [
        format!("type=oci,dest={},name=one:1", at("oci.tar")),
        format!("type=oci,tar=false,dest={},compression=zstd", at("layout")),
        format!("type=docker,dest={}", at("docker.tar")),
    ];
    let mut words = vec!["-t", "two:2", "--metadata-file", "meta.json", "--load"];
    for output in &outputs {
        words.extend(["-o", output]);
    }
    let mut call = place.command(&[&["build"], &words[..], &["ctx"]].concat());
    call.0.current_dir(place.directory.join("."));
    let done = call.run();
    assert_eq!(done.code, 0, "{}", done.err);
    let id = place.command(&["image", "inspect", "-f", "{{.Id}}", "two:2"]).run().ok();
    assert!(shell(&place.directory.join("."), "cat meta.json").contains(&id));
    assert!(
        shell(&out, "cat layout/index.json").contains("two:2")
            || shell(&out, "cat layout/index.json").contains("vnd.oci.image.manifest")
    );
    assert_eq!(shell(&out, "tar -tf oci.tar | grep -c manifest.json || true"), "0");
    let Some(other) = Place::new("build-out-other") else { return };
    other.run(&format!("load -q -i {}", at("oci.tar"))).ok();
    assert_eq!(prints(&other, "one:1", "cat /srv/tool; ls /data"), "tool");
    assert_eq!(other.command(&["image", "inspect", "-f", "{{.Id}}", "one:1"]).run().ok(), id);
    other.run("rmi one:1").ok();
    other.run(&format!("load -q -i {}", at("docker.tar"))).ok();
    assert_eq!(prints(&other, "two:2", "cat /srv/tool"), "tool");
    other.run("rmi two:2").ok();
    shell(&out, "tar -C layout -cf layout.tar .");
    let loaded = other.run(&format!("load -i {}", at("layout.tar"))).ok();
    assert!(loaded.contains("two:2") || loaded.contains("Loaded image"), "{loaded}");
    assert_eq!(other.command(&["image", "inspect", "-f", "{{.Id}}", &id]).run().ok(), id);

    // Into a registry.
    let registry = TestRegistry::start();
    let name = registry.name("pushed:1");
    let done = build(&place, &directory, &["-t", &name, "--push"]);
    assert_eq!(done.code, 0, "{}", done.err);
    other.command(&["pull", "-q", &name]).run().ok();
    assert_eq!(prints(&other, &name, "cat /made"), "made");

    for (words, want) in [
        (&["-o", "type=local"][..], "needs a `dest`"),
        (&["-o", "type=local,dest=x,what=1"], "does not know the attribute `what`"),
        (&["-o", "type=floppy,dest=x"], "no output of the type `floppy`"),
        (&["-o", "type=oci,dest=x,compression=lzma"], "`lzma`"),
        (&["-o", "type=image,push-by-digest=true"], "`push-by-digest`"),
        (&["-o", "type=oci,dest=x,rewrite-timestamp=true"], "SOURCE_DATE_EPOCH"),
        (&["--push"], "cannot push an image without a name"),
        (&["-o", "dest=x"], "it has no type"),
        (&["--cache-to", "type=gha"], "--cache-to does not know the type `gha`"),
        (&["--cache-from", "type=inline"], "by `type=registry,ref=IMAGE`"),
        (&["-o", "type=image,compression=zstd"], "`zstd` for `compression`"),
        (&["-o", "-", "-o", "type=oci"], "only one output can go to standard output"),
        (&["--platform", "linux/amd64/v2/x"], "invalid platform"),
        (&["--progress", "loud"], "`loud` for --progress"),
        (&["--secret", "id="], "`id=` is not understood"),
        (&["--secret", "src=a"], "it has no id"),
        (&["--secret", "id=a,id=b"], "two of a kind"),
        (&["--secret", "id=a,src=/etc/passwd,env=HOME"], "either a file or a variable"),
        (&["--secret", "id=a,src=/etc"], "it is a directory"),
        (&["--secret", "id=a,src=/dev/zero"], "more than 512000 bytes"),
        (&["--ssh", "=/socket"], "it has no name"),
        (&["--build-context", "a="], "NAME=SOURCE"),
        (&["--build-context", "a=/does/not/exist"], "cannot use `/does/not/exist` as a context"),
        (&["--build-context", "a=docker-image://UPPER"], "`UPPER`"),
        (&["--cache-from", "type=local,src=x,mode=max"], "does not know the attribute `mode`"),
    ] {
        let done = build(&place, &directory, words);
        assert!(done.code != 0 && done.err.contains(want), "{words:?}: {}", done.err);
    }
    let done = place.command(&["builder", "prune", "-af", "--filter", "id="]).run();
    assert!(done.code != 0 && done.err.contains("it has no value"), "{done:?}");
    // Nothing stands behind an archive.
    let tar = out.join("stdout.tar");
    let mut call = place.command(&["build", "-q", "-o", "-", directory.to_str().unwrap()]);
    call.0.stdout(fs::File::create(&tar).unwrap());
    assert!(call.0.status().unwrap().success());
    assert_eq!(fs::read(&tar).unwrap().last(), Some(&0));
}

#[test]
fn privileged_caches_go_from_machine_to_machine() {
    let Some(place) = Place::new("build-cache") else { return };
    let directory = context(&place, "ctx", TEXT, &[("a.txt", "A")]);
    let registry = TestRegistry::start();
    let (max, min, image) = (registry.name("c:max"), registry.name("c:min"), registry.name("c:image"));
    let local = place.directory.join("cache").display().to_string();
    let all = [
        format!("type=local,dest={local},mode=max"),
        format!("type=registry,ref={max},mode=max"),
        format!("type=registry,ref={min}"),
        "type=inline".to_owned(),
    ];
    let mut words = vec!["-t", &image, "--push"];
    for target in &all {
        words.extend(["--cache-to", target]);
    }
    let done = build(&place, &directory, &words);
    assert_eq!(done.code, 0, "{}", done.err);
    let from_local = format!("type=local,src={local}");
    for (number, (source, cached)) in
        [(&from_local, 4), (&max, 4), (&min, 3), (&image, 3)].into_iter().enumerate()
    {
        let Some(other) = Place::new(&format!("build-cache-{number}")) else { return };
        let done = build(&other, &directory, &["-t", "t", "--cache-from", source]);
        assert_eq!(done.code, 0, "{}", done.err);
        assert_eq!(done.err.matches("CACHED").count(), cached, "{source}: {}", done.err);
        assert_eq!(prints(&other, "t", "cat /made /srv/tool; ls /data"), "made\ntool");
        // It is this machine's now.
        assert_eq!(build(&other, &directory, &[]).err.matches("CACHED").count(), 4);
    }
    // The same once more, after a change: blobs that are there stay.
    let blobs = || shell(Path::new(&local), "ls blobs/sha256 | sort");
    let before = blobs();
    fs::write(directory.join("Dockerfile"), format!("{TEXT}RUN echo more > /more\n")).unwrap();
    let target = format!("type=local,dest={local},mode=max");
    assert_eq!(build(&place, &directory, &["--cache-to", &target]).code, 0);
    let after = blobs();
    assert!(before.lines().all(|name| after.contains(name)));
    assert_eq!(after.lines().count(), before.lines().count() + 3);

    // What is not there, or damaged, costs time only.
    let Some(other) = Place::new("build-cache-damaged") else { return };
    for file in fs::read_dir(Path::new(&local).join("blobs/sha256")).unwrap().flatten() {
        let bytes = fs::read(file.path()).unwrap();
        if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            fs::write(file.path(), [&bytes[..bytes.len() - 4], b"oops"].concat()).unwrap();
        }
    }
    let done = build(&other, &directory, &["-t", "t", "--cache-from", &from_local]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.err.contains("warning: cannot bring layer"), "{}", done.err);
    assert_eq!(done.err.matches("CACHED").count(), 0, "{}", done.err);
    assert_eq!(prints(&other, "t", "cat /made /more"), "made\nmore");
    let nowhere = registry.name("nothing:1");
    for source in ["type=local,src=/nowhere", nowhere.as_str()] {
        let done = build(&other, &directory, &["--cache-from", source]);
        assert!(done.code == 0 && done.err.contains("warning: cannot read the cache"), "{}", done.err);
    }
}

#[test]
fn privileged_squash_makes_one_layer() {
    let Some(place) = Place::new("build-squash") else { return };
    let text = "\
FROM busybox
RUN mkdir /d; echo 1 > /d/a; echo 2 > /d/b; echo big > /gone; ln /d/a /d/hard
RUN rm /gone /d/b /data/from-image; rm -r /home/robot; mkdir /home/robot; echo new > /home/robot/f
RUN rm -r /d; ln -s /tmp /d; echo 3 > /tmp/x; chmod 4755 /tmp/x
";
    let directory = context(&place, "ctx", text, &[]);
    assert_eq!(build(&place, &directory, &["-t", "plain"]).code, 0);
    assert_eq!(build(&place, &directory, &["-t", "one", "--squash"]).code, 0);
    let look = "cd /; find / -xdev -path /proc -prune -o -print | sort | grep -v ^/dev; cat /d/x; stat -c '%a %N' /tmp/x /d";
    assert_eq!(prints(&place, "one", look), prints(&place, "plain", look));
    let layers = "{{len .RootFS.Layers}}";
    let count = |image: &str| place.command(&["image", "inspect", "-f", layers, image]).run().ok();
    assert_eq!((count("plain"), count("one")), ("4".to_owned(), "2".to_owned()));
    let history = place.run("history --no-trunc one").ok();
    assert!(history.contains("squashed"), "{history}");
    // It needs nothing of what it was made from.
    place.run("rmi plain").ok();
    place.run("system prune -f").ok();
    assert_eq!(prints(&place, "one", "cat /home/robot/f"), "new");
}

#[test]
fn privileged_builds_are_reproducible() {
    let text = "\
FROM busybox
COPY tree /tree
RUN echo made > /made; mkdir -p /a/b; touch /a/b/c
WORKDIR /work
COPY <<EOF /doc
text
EOF
";
    let mut digests = Vec::new();
    for number in 0..2 {
        let Some(place) = Place::new(&format!("build-same-{number}")) else { return };
        let directory = context(&place, "ctx", text, &[("tree/f", "F"), ("tree/d/g", "G")]);
        // Times of the context differ, and lie before and behind the epoch.
        shell(
            &directory,
            &format!("touch -d @{} tree/f; touch -d @1000 tree/d/g tree/d", 2_000_000_000 + number),
        );
        let archive = place.directory.join("o.tar").display().to_string();
        let output = format!("type=oci,dest={archive},rewrite-timestamp=true");
        let mut call =
            place.command(&["build", "-q", "-t", "t:1", "-o", &output, directory.to_str().unwrap()]);
        call.0.env("SOURCE_DATE_EPOCH", "1500000000");
        let done = call.run();
        assert_eq!(done.code, 0, "{}", done.err);
        digests.push(shell(&place.directory.join("."), "sha256sum < o.tar"));
        if number == 1 {
            place.run(&format!("load -q -i {archive}")).ok();
            let times = prints(&place, "t:1", "stat -c %Y /tree/f /tree/d/g /tree/d /made /a/b /work /doc");
            assert_eq!(times, "1500000000\n1000\n1000\n1500000000\n1500000000\n1500000000\n1500000000");
            let created = place.command(&["image", "inspect", "-f", "{{.Created}}", "t:1"]).run().ok();
            assert!(created.starts_with("2017-07-14T02:40:00"), "{created}");
            // The build argument does the same, and goes before the environment.
            let argument = ["--build-arg", "SOURCE_DATE_EPOCH=1500000000", "-t", "t:1", "-o", &output];
            let all = [&["build", "-q"], &argument[..], &[directory.to_str().unwrap()]].concat();
            let mut call = place.command(&all);
            call.0.env("SOURCE_DATE_EPOCH", "5");
            assert_eq!(call.run().code, 0);
            digests.push(shell(&place.directory.join("."), "sha256sum < o.tar"));
        }
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

#[test]
fn privileged_several_platforms_become_an_index() {
    let Some(place) = Place::new("build-platforms") else { return };
    let registry = TestRegistry::start();
    let host = place.command(&["image", "inspect", "-f", "{{.Architecture}}", "busybox"]).run().ok();
    let foreign = if host == "riscv64" { "s390x" } else { "riscv64" };
    let images: Vec<_> = [host.as_str(), foreign]
        .iter()
        .map(|architecture| {
            let entries = [Entry::file("arch", format!("{architecture}\n"))];
            let platform = format!("linux/{architecture}").parse().unwrap();
            ImageBuilder::new().platform(platform).layer_with(&entries, Compression::Gzip).build()
        })
        .collect();
    registry.put_index("base", "latest", &images.iter().collect::<Vec<_>>());
    let base = registry.name("base:latest");
    let text = format!(
        "FROM {base}\nARG TARGETPLATFORM TARGETARCH BUILDPLATFORM\nCOPY <<EOF /for\n$TARGETPLATFORM $TARGETARCH $BUILDPLATFORM\nEOF\n"
    );
    let directory = context(&place, "ctx", &text, &[]);
    let both = format!("linux/{host},linux/{foreign}");
    let out = place.directory.join("out");
    let name = registry.name("multi:1");
    let files = format!("type=local,dest={}", out.join("files").display());
    let oci = format!("type=oci,dest={}", out.join("multi.tar").display());
    let words = ["--platform", &both, "-t", &name, "--push", "-o", &files, "-o", &oci];
    let done = build(&place, &directory, &words);
    assert_eq!(done.code, 0, "{}", done.err);
    for architecture in [host.as_str(), foreign] {
        let at = out.join("files").join(format!("linux_{architecture}"));
        let want = format!("linux/{architecture} {architecture} linux/{host}\n");
        assert_eq!(fs::read_to_string(at.join("for")).unwrap(), want);
        assert_eq!(fs::read_to_string(at.join("arch")).unwrap(), format!("{architecture}\n"));
        let platform = format!("linux/{architecture}");
        place.command(&["pull", "-q", "--platform", &platform, &name]).run().ok();
        let found = place.command(&["image", "inspect", "-f", "{{.Architecture}}", &name]).run().ok();
        assert_eq!(found, architecture);
    }
    assert!(shell(&out, "tar -xOf multi.tar index.json").contains("image.index"));
    // The store keeps one image under a name.
    let done = build(&place, &directory, &["--platform", &both, "-t", "t"]);
    assert!(done.code != 0 && done.err.contains("cannot be kept here under one name"), "{}", done.err);
    // A command needs an interpreter.
    fs::write(directory.join("Dockerfile"), format!("FROM {base}\nRUN true\n")).unwrap();
    let done = build(&place, &directory, &["--platform", &format!("linux/{foreign}")]);
    let want = format!("no interpreter for `{foreign}`");
    assert!(done.code != 0 && done.err.contains(&want), "{}", done.err);
}
