//! What is typed, and what it comes to.

use super::*;

fn machine() -> Machine {
    Machine {
        cores: 4,
        nofile: 1000,
        directories: Directories {
            config: PathBuf::from("/c"),
            state: PathBuf::from("/s"),
            cache: PathBuf::from("/k"),
        },
    }
}

fn typed(toml: &str) -> Options {
    toml::from_str(toml).unwrap()
}

fn config(toml: &str) -> Result<Config, BadConfig> {
    Config::new(typed(toml), &machine())
}

fn refusal(toml: &str) -> String {
    let error = config(toml).expect_err(toml);
    assert_eq!(error.exit_code(), exit::CONFIG);
    let line = error.to_string();
    assert!(!line.contains('\n'), "one line: {line}");
    line
}

#[test]
fn nothing_typed_is_safe_and_works() {
    let config = config("").unwrap();
    let listen: Vec<String> = config.listen.iter().map(SocketAddr::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:8081", "[::1]:8081"]);
    assert!(config.listen_is_default);
    assert_eq!(config.admin.to_string(), "127.0.0.1:8082");
    assert_eq!(config.peer_listen[0].to_string(), "0.0.0.0:10234");
    assert_eq!(config.store, Path::new("/k/store"));
    assert_eq!(config.token_file, Path::new("/s/token"));
    assert_eq!((config.shards, config.players_max), (4, 700));
    assert_eq!(config.store_limit, Some(20_000_000_000));
    assert_eq!(config.origin_policy, OriginPolicy::Hybrid);
    assert_eq!(config.allow_sites, None);
    assert!(!config.allow_private && !config.proxy && !config.log_json);
}

#[test]
fn the_file_has_the_flags_names() {
    let config = config(
        r#"
        listen = ["127.0.0.1:0", "[::1]:0"]
        admin = "[::1]:0"
        peer-listen = ["0.0.0.0:0"]
        store = "/films"
        store-limit = "2TiB"
        shards = 2
        origin-policy = "never"
        allow-private = true
        ca-file = "/ca.pem"
        proxy = true
        allow-host = ["TV.lan"]
        sites = "list"
        allow-site = ["https://Video.example/"]
        public = true
        log = "bittube=debug"
        log-json = true
        "#,
    )
    .unwrap();
    assert!(!config.listen_is_default);
    assert_eq!(config.store_limit, Some(2 << 40));
    assert_eq!(config.origin_policy, OriginPolicy::Never);
    assert_eq!(config.allow_hosts, ["tv.lan"]);
    assert_eq!(
        config.allow_sites,
        Some(vec![String::from("https://video.example")])
    );
    assert_eq!(
        typed("store-limit = 5_000_000_000").store_limit,
        Some(StoreLimit(Some(5_000_000_000)))
    );
}

#[test]
fn mistakes_in_the_file_are_named() {
    for (toml, named) in [
        ("no-such = 1", "no-such"),
        ("shards = \"two\"", "shards"),
        ("store-limit = \"20 apples\"", "store-limit"),
        ("origin-policy = \"sometimes\"", "sometimes"),
        ("listen = [\"8081\"]", "listen"),
        ("listen_ = [", "listen_"),
    ] {
        let error = toml::from_str::<Options>(toml).expect_err(toml).to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn a_file_that_is_named_must_be_readable() {
    let dir = tempfile::tempdir().unwrap();
    let mut directories = machine().directories;
    directories.config = dir.path().to_owned();
    assert_eq!(
        Options::read(None, &directories).unwrap(),
        Options::default()
    );
    let named = dir.path().join("other.toml");
    let error = Options::read(Some(&named), &directories).unwrap_err();
    assert_eq!(error.exit_code(), exit::NO_INPUT);
    std::fs::write(directories.config_file(), "shards = 3").unwrap();
    assert_eq!(Options::read(None, &directories).unwrap().shards, Some(3));
    std::fs::write(directories.config_file(), "shards = ").unwrap();
    let error = Options::read(None, &directories).unwrap_err();
    assert_eq!(error.exit_code(), exit::CONFIG);
    assert!(error.to_string().contains("config.toml"), "{error}");
}

#[test]
fn what_is_typed_later_outranks() {
    let under =
        typed("shards = 3\nlisten = [\"127.0.0.1:1\"]\npublic = true\nstore-limit = \"1GB\"");
    let over = typed("shards = 5\npublic = false\nstore-limit = \"none\"");
    let both = over.over(under);
    assert_eq!((both.shards, both.public), (Some(5), Some(false)));
    assert_eq!(both.store_limit, Some(StoreLimit(None)));
    assert_eq!(both.listen.len(), 1);
    let all = typed(
        "admin = \"127.0.0.1:1\"\nstore = \"/a\"\norigin-policy = \"eager\"\nproxy = true\nca-file = \"/b\"\nallow-private = true\nallow-host = [\"h\"]\nsites = \"open\"\nallow-site = [\"s\"]\nlog = \"warn\"\nlog-json = true\npeer-listen = [\"0.0.0.0:2\"]",
    );
    assert_eq!(Options::default().over(all.clone()), all);
    assert_eq!(all.clone().over(Options::default()), all);
}

// R1.

#[test]
fn what_others_can_reach_must_be_wanted() {
    let others = "listen = [\"0.0.0.0:8081\"]\n";
    assert!(refusal(others).contains("--public"));
    assert!(refusal("listen = [\"[::]:8081\"]").contains("--public"));
    assert!(refusal(&format!("{others}public = true")).contains("--allow-site"));
    assert!(refusal("public = true\nsites = \"open\"").contains("--allow-site"));
    assert!(refusal("public = true\nsites = \"list\"").contains("--allow-site"));
    let site = "allow-site = [\"https://video.example\"]\n";
    assert!(config(&format!("{site}{others}public = true")).is_ok());
    assert!(config("listen = [\"127.3.2.1:80\", \"[::ffff:127.0.0.1]:81\"]").is_ok());
    assert!(refusal("admin = \"0.0.0.0:8082\"").contains("--admin"));
    assert!(refusal(&format!("{site}public = true\nadmin = \"10.0.0.1:1\"")).contains("--admin"));
}

#[test]
fn an_address_is_listened_on_once() {
    assert!(refusal("listen = [\"127.0.0.1:8082\"]").contains("twice"));
    assert!(refusal("listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]").contains("twice"));
    assert!(
        config("listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]").is_ok(),
        "the kernel chooses"
    );
    let many = vec!["\"127.0.0.1:0\""; LISTEN_MAX + 1].join(", ");
    assert!(refusal(&format!("listen = [{many}]")).contains("more than"));
}

#[test]
fn sites_are_spelled_as_browsers_do() {
    let sites = |list: &str| {
        config(&format!("allow-site = [{list}]"))
            .unwrap()
            .allow_sites
            .unwrap()
    };
    assert_eq!(
        sites("\"https://B.example:443\", \"http://a.example:80/\", \"https://b.example\""),
        ["http://a.example", "https://b.example"]
    );
    assert_eq!(
        sites("\"https://bücher.example:8443\""),
        ["https://xn--bcher-kva.example:8443"]
    );
    assert_eq!(
        config("sites = \"list\"").unwrap().allow_sites,
        Some(vec![])
    );
    for bad in [
        "video.example",
        "ftp://a.example",
        "https://a.example/path",
        "https://a@b.example",
        "https://",
        "*",
    ] {
        assert!(
            refusal(&format!("allow-site = [\"{bad}\"]")).contains(bad),
            "{bad}"
        );
    }
    assert!(
        refusal("sites = \"open\"\nallow-site = [\"https://a.example\"]").contains("contradict")
    );
}

#[test]
fn hosts_are_names() {
    assert!(config("allow-host = [\"tv.lan:8081\", \"[fd00::1]\"]").is_ok());
    for bad in ["", "a b", "a/b", "a\\r\\nb", "bücher"] {
        assert!(
            refusal(&format!("allow-host = [\"{bad}\"]")).contains("--allow-host"),
            "{bad}"
        );
    }
}

#[test]
fn limits_hold() {
    assert!(refusal("shards = 0").contains("--shards"));
    assert!(refusal("shards = 257").contains("--shards"));
    assert!(refusal("store-limit = \"1MB\"").contains("--store-limit"));
    assert!(refusal("store = \"\"").contains("--store"));
    assert!(refusal("log = \"bittube=loud\"").contains("--log"));
    assert_eq!(config("store-limit = \"none\"").unwrap().store_limit, None);
    assert_eq!(players_max(1_000_000).unwrap(), PLAYERS_MAX);
    assert_eq!(players_max(u64::MAX).unwrap(), PLAYERS_MAX);
    assert_eq!(players_max(NOFILE_MIN).unwrap(), 179);
    assert!(
        players_max(NOFILE_MIN - 1)
            .unwrap_err()
            .to_string()
            .contains("ulimit")
    );
    let many = Machine {
        cores: 1000,
        ..machine()
    };
    assert_eq!(
        Config::new(Options::default(), &many).unwrap().shards,
        SHARDS_MAX
    );
}

#[test]
fn this_machine_is_known() {
    let machine = Machine::here().unwrap();
    assert!(machine.cores >= 1 && machine.nofile >= 1);
}
