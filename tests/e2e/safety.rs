//! Safe by default: who may ask, what may be asked for, and what a web page can reach.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::bed::Bed;
use crate::bed::chromium::Chromium;
use crate::bed::film::Film;
use crate::bed::http::get;
use crate::bed::net::{loopback, loopback_host};
use crate::bed::nginx::Nginx;
use crate::bed::page::Page;
use crate::bed::scene::Scene;
use crate::bed::seeder::{Conduct, Seeder};
use crate::bed::stub::{Options, Stub, target};

fn strict(bed: &Bed) -> Stub {
    Stub::start_with(
        bed,
        Options {
            allow_private: false,
            ..Options::new(bed)
        },
    )
}

#[test]
fn a_private_address_is_refused_as_origin() {
    let scene = Scene::new(100_000, 16_384);
    let stub = strict(&scene.bed);
    let port = scene.nginx.addr().port();
    let spellings = [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "172.16.0.1",
        "0.0.0.0",
        "100.64.0.1",
        "[fd00::1]",
        "[fe80::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ];
    for host in spellings {
        let reply = stub
            .get(&format!("/http://{host}:{port}/film.bin"), &[])
            .unwrap();
        assert!(
            matches!(reply.status, 400 | 403),
            "{host}: {} {}",
            reply.status,
            reply.text()
        );
    }
    // A name is as good as what it stands for.
    let reply = stub
        .get(&format!("/http://localhost:{port}/film.bin"), &[])
        .unwrap();
    assert!(matches!(reply.status, 403 | 502), "{}", reply.status);
    assert_eq!(scene.nginx.bytes_sent("film.bin"), 0);
    assert!(
        scene.nginx.sent("film.bin").is_empty(),
        "the origin was asked"
    );
}

#[test]
fn a_private_address_is_refused_as_tracker() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 100_000, 16_384);
    let nginx = Nginx::start(&bed);
    film.publish(nginx.root(), "");
    let stub = strict(&bed);
    let tracker = nginx.url("announce");
    let reply = stub
        .get(&target(&[&tracker], "http://video.invalid/film.bin"), &[])
        .unwrap();
    assert_eq!(reply.status, 403, "{}", reply.text());
    assert!(nginx.sent("announce").is_empty());
}

#[test]
fn a_private_address_is_refused_as_peer() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 100_000, 16_384);
    let seeder = Seeder::start(loopback(0), film.goods(), Conduct::default()).unwrap();
    let magnet = format!("/magnet:?xt=urn:btih:{}&x.pe={}", film.hex(), seeder.addr());
    let ask = |stub: &Stub| {
        let (addr, magnet) = (stub.addr(), magnet.clone());
        thread::spawn(move || get(addr, &magnet, &[]));
        thread::sleep(Duration::from_secs(2));
        seeder.tally().dialled.load(Ordering::Relaxed)
    };
    assert_eq!(ask(&strict(&bed)), 0, "it was dialled");
    // The same magnet, allowed: so the seeder could have been found.
    assert!(ask(&Stub::start(&bed)) > 0);
}

#[test]
fn a_foreign_host_gets_421() {
    let scene = Scene::new(100_000, 16_384);
    let stub = Stub::start(&scene.bed);
    let port = stub.addr().port();
    let ask = |host: &str| {
        stub.get(&scene.target(), &[&format!("Host: {host}")])
            .unwrap()
            .status
    };
    for own in ["localhost", "127.0.0.1", "LOCALHOST"] {
        assert_eq!(ask(&format!("{own}:{port}")), 200, "{own}");
    }
    let foreign = [
        format!("evil.example:{port}"),
        "evil.example".to_owned(),
        format!("localhost.evil.example:{port}"),
        format!("localhost.:{port}"),
        format!("0.0.0.0:{port}"),
        format!("127.0.0.2:{port}"),
        format!("user@localhost:{port}"),
        "localhost:1".to_owned(),
    ];
    for host in &foreign {
        assert_eq!(ask(host), 421, "{host}");
    }
    let mut client = stub.client();
    client
        .send_raw(format!("GET {} HTTP/1.1\r\n\r\n", scene.target()).as_bytes())
        .unwrap();
    assert_eq!(client.reply("GET").unwrap().status, 400);
    let both = [
        format!("Host: localhost:{port}"),
        "Host: evil.example".to_owned(),
    ];
    let both: Vec<_> = both.iter().map(String::as_str).collect();
    assert_eq!(stub.get(&scene.target(), &both).unwrap().status, 400);
    let bearer = format!("Authorization: Bearer {}", stub.token());
    let admin = get(stub.admin(), "/api/stats", &[&bearer, "Host: evil.example"]).unwrap();
    assert_eq!(admin.status, 421);
}

#[test]
fn the_admin_port_wants_its_token() {
    let bed = Bed::new();
    let stub = Stub::start(&bed);
    for path in ["/api/stats", "/metrics"] {
        let bare = get(stub.admin(), path, &[]).unwrap();
        assert_eq!(bare.status, 401, "{path}");
        assert_eq!(bare.header("www-authenticate"), Some("Bearer"), "{path}");
        let wrong = format!("Authorization: Bearer {}", "0".repeat(64));
        assert_eq!(
            get(stub.admin(), path, &[&wrong]).unwrap().status,
            401,
            "{path}"
        );
        let right = format!("Authorization: Bearer {}", stub.token());
        let reply = get(stub.admin(), path, &[&right]).unwrap();
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{path}");
    }
    use std::os::unix::fs::PermissionsExt;
    let token = stub.options().state.join("bittube/token");
    assert_eq!(
        std::fs::metadata(token).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn metrics_have_the_names_agreed() {
    let scene = Scene::new(1_000_000, 65_536);
    let stub = Stub::start(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    let right = format!("Authorization: Bearer {}", stub.token());
    let text = get(stub.admin(), "/metrics", &[&right]).unwrap().text();
    let names = [
        "bittube_bytes_total{source=\"peer\"}",
        "bittube_bytes_total{source=\"origin\"}",
        "bittube_origin_bytes_total{cause=\"start\"}",
        "bittube_served_bytes_total{to=\"player\"}",
        "bittube_served_bytes_total{to=\"peer\"}",
        "bittube_first_byte_seconds_bucket{le=",
        "bittube_stall_seconds_total",
        "bittube_deadline_missed_total",
        "bittube_peers",
        "bittube_swarms 1",
    ];
    for name in names {
        assert!(text.contains(name), "{name} is not in:\n{text}");
    }
}

/// A page of another site, in a real browser, tries what it can.
#[test]
fn a_page_of_another_site_cannot_read_or_change_anything() {
    let bed = Bed::new();
    let stub = Stub::start(&bed);
    let nginx = Nginx::start(&bed);
    std::fs::copy(crate::bed::film::CLIP, nginx.root().join("clip.mp4")).unwrap();
    let clip = stub.url(&[], &nginx.url("clip.mp4"));
    // The swarm-less film leaves a trace of its own; what the page does must not.
    stub.get(&target(&[], &nginx.url("clip.mp4")), &["Range: bytes=0-9"])
        .unwrap();
    let before = stub.stats();
    let admin = format!("http://{}", stub.admin());
    let script = format!(
        r"
        const tries = {{}};
        const attempt = async (name, ask) => {{
            try {{
                const reply = await ask();
                tries[name] = reply.type === 'opaque' ? 'opaque' : 'read ' + reply.status;
            }} catch (error) {{ tries[name] = 'refused'; }}
        }};
        const at = '{admin}/api/stats';
        await attempt('film', () => fetch('{clip}', {{ method: 'HEAD' }}));
        await attempt('plain', () => fetch(at));
        await attempt('opaque', () => fetch(at, {{ mode: 'no-cors' }}));
        await attempt('credentials', () => fetch(at, {{ credentials: 'include' }}));
        await attempt('token', () => fetch(at, {{ headers: {{ Authorization: 'Bearer 0' }} }}));
        await attempt('metrics', () => fetch('{admin}/metrics'));
        await attempt('post', () => fetch(at, {{ method: 'POST', body: 'x' }}));
        await attempt('delete', () => fetch(at, {{ method: 'DELETE' }}));
        const frame = document.createElement('iframe');
        frame.src = '{admin}/';
        document.body.append(frame);
        await new Promise((done) => {{ frame.onload = done; setTimeout(done, 3000); }});
        try {{ tries.frame = 'read ' + frame.contentDocument.body.innerText.length; }}
        catch (error) {{ tries.frame = 'refused'; }}
        if (frame.contentDocument === null) tries.frame = 'refused';
        await report(tries);
        "
    );
    let page = Page::serve("", &script);
    let _browser = Chromium::open(&bed, &page);
    let seen = page.next_report(Duration::from_secs(60));
    for name in [
        "plain",
        "credentials",
        "token",
        "metrics",
        "post",
        "delete",
        "frame",
    ] {
        assert_eq!(seen[name], "refused", "{seen}");
    }
    // At most an answer that the page cannot see into.
    assert!(
        seen["opaque"] == "refused" || seen["opaque"] == "opaque",
        "{seen}"
    );
    // So it was not for want of a way to this machine.
    assert_eq!(seen["film"], "read 200", "{seen}");
    let after = stub.stats();
    assert_eq!(before["swarms"], after["swarms"]);
    assert_eq!(before["bytes"], after["bytes"]);
}

/// Nor is a film a way to run a script of the film's maker in the stub's origin.
#[test]
fn a_page_gets_media_and_nothing_else() {
    let scene = Scene::new(100_000, 16_384);
    let root = scene.nginx.root();
    std::fs::write(root.join("page.html"), "<script>alert(1)</script>").unwrap();
    std::fs::copy(crate::bed::film::CLIP, root.join("clip.mp4")).unwrap();
    let stub = Stub::start(&scene.bed);
    let site = "Origin: http://site.example";
    let html = target(&[], &scene.nginx.url("page.html"));
    let refused = stub.get(&html, &[site]).unwrap();
    assert_eq!(refused.status, 502, "{}", refused.text());
    let clip = target(&[], &scene.nginx.url("clip.mp4"));
    let reply = stub
        .get(&clip, &[site, "Sec-Fetch-Dest: video", "Range: bytes=0-99"])
        .unwrap();
    assert_eq!(reply.status, 206, "{}", reply.text());
    assert_eq!(
        reply.header("access-control-allow-origin"),
        Some("http://site.example")
    );
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert!(
        reply
            .header("content-security-policy")
            .is_some_and(|csp| csp.contains("sandbox"))
    );
    for dest in ["script", "iframe", "worker", "object", "embed"] {
        let dest = format!("Sec-Fetch-Dest: {dest}");
        let reply = stub
            .get(&clip, &[site, "Sec-Fetch-Site: cross-site", &dest])
            .unwrap();
        assert_eq!(reply.status, 403, "{dest}");
    }
}

#[test]
fn what_is_no_http_ends_in_400() {
    let bed = Bed::new();
    let mut stub = Stub::start(&bed);
    let host = format!("Host: {}\r\n", stub.addr());
    let bad = [
        format!("GET /x HTTP/1.1\n{host}\n"),
        format!("GET /x HTTP/1.1\r\n{host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{host}A : b\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{host}A: b\r\n c\r\n\r\n"),
        "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(),
    ];
    for request in &bad {
        let mut client = stub.client();
        client.send_raw(request.as_bytes()).unwrap();
        let reply = client.reply("GET").unwrap();
        assert_eq!(reply.status, 400, "{request:?}");
    }
    let mut client = stub.client();
    client
        .send_raw(format!("CONNECT a.example:443 HTTP/1.1\r\n{host}\r\n").as_bytes())
        .unwrap();
    assert_eq!(client.reply("CONNECT").unwrap().status, 405);
    let long = format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(9000));
    let mut client = stub.client();
    client.send_raw(long.as_bytes()).unwrap();
    assert_eq!(client.reply("GET").unwrap().status, 414);
    stub.assert_running();
    assert!(crate::bed::net::answers(
        (loopback_host(1), stub.addr().port()).into()
    ));
}
