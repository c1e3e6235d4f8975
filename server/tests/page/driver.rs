//! A real Chromium, driven by the WebDriver protocol (W3C) and, where that has no word for it, by
//! chromedriver's own door to the DevTools. Each browser is a process with a profile of its own; both are
//! ended and removed when its value is dropped.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest anything may take here. A noisy machine needs room; a hang still ends.
const LIMIT: Duration = Duration::from_secs(90);
/// The key of an element in the protocol's documents.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One browser with one window.
pub struct Browser {
    driver: Child,
    at: String,
    agent: ureq::Agent,
    _profile: TempDir,
    /// `https://127.0.0.1:PORT`.
    pub site: String,
}

impl Browser {
    /// Starts one that looks at `site`.
    pub fn start(site: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: cargo verify page installs it");
        let port = port(&mut driver);
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT));
        let agent: ureq::Agent = config.build().into();
        let mut browser = Self {
            driver,
            at: format!("http://127.0.0.1:{port}"),
            agent,
            _profile: profile,
            site: site.to_owned(),
        };
        let options = json!({
            "args": [
                "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
                "--disable-component-update", "--force-color-profile=srgb", "--hide-scrollbars", "--lang=en",
                format!("--user-data-dir={}", browser._profile.path().display()),
            ],
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            // The server's certificate is one of its own authority, which this profile does not know.
            "acceptInsecureCerts": true,
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        }}});
        let session = browser.post("/session", &wanted);
        browser.at = format!("{}/session/{}", browser.at, session["sessionId"].as_str().unwrap());
        browser.post("/timeouts", &json!({ "script": 60_000, "pageLoad": 60_000, "implicit": 0 }));
        browser
    }

    fn post(&self, path: &str, document: &Value) -> Value {
        let url = format!("{}{path}", self.at);
        let mut answer =
            self.agent.post(&url).send_json(document).unwrap_or_else(|error| panic!("{path}: {error}"));
        let value: Value = answer.body_mut().read_json().unwrap();
        assert!(answer.status().is_success(), "{path} {document}: {}", value["value"]);
        value["value"].clone()
    }

    fn get(&self, path: &str) -> Value {
        let mut answer = self.agent.get(format!("{}{path}", self.at)).call().unwrap();
        let value: Value = answer.body_mut().read_json().unwrap();
        assert!(answer.status().is_success(), "{path}: {}", value["value"]);
        value["value"].clone()
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Opens a page of the site and waits until it is loaded.
    pub fn go(&self, path: &str) {
        self.post("/url", &json!({ "url": format!("{}{path}", self.site) }));
    }

    /// Where it is: path and query.
    pub fn place(&self) -> String {
        let url = self.get("/url");
        let url = url.as_str().unwrap();
        url.strip_prefix(&self.site).unwrap_or_else(|| panic!("not on the site: {url}")).to_owned()
    }

    /// What a function body returns in the page.
    pub fn script(&self, body: &str, arguments: &[Value]) -> Value {
        self.post("/execute/sync", &json!({ "script": body, "args": arguments }))
    }

    /// The same for a body that calls its last argument when it has done.
    pub fn script_later(&self, body: &str, arguments: &[Value]) -> Value {
        self.post("/execute/async", &json!({ "script": body, "args": arguments }))
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub fn until(&self, what: &str, expression: &str) {
        let end = Instant::now() + LIMIT;
        while self.script(&format!("return Boolean({expression})"), &[]) != json!(true) {
            if Instant::now() > end {
                panic!("{what}: {} at {}", self.text("body"), self.place());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn element(&self, css: &str) -> String {
        let found = self.post("/elements", &json!({ "using": "css selector", "value": css }));
        let first = found[0][ELEMENT].as_str();
        first.unwrap_or_else(|| panic!("no {css} at {}: {}", self.place(), self.text("body"))).to_owned()
    }

    /// What is seen of the first element that matches.
    #[track_caller]
    pub fn text(&self, css: &str) -> String {
        let text =
            self.script("return document.querySelector(arguments[0])?.innerText ?? null", &[json!(css)]);
        text.as_str().unwrap_or_else(|| panic!("no {css}")).to_owned()
    }

    /// Clicks as a person does: on what is visible.
    #[track_caller]
    pub fn click(&self, css: &str) {
        let element = self.element(css);
        self.post(&format!("/element/{element}/click"), &json!({}));
    }

    /// Types into a field, after what is there.
    #[track_caller]
    pub fn write(&self, css: &str, text: &str) {
        let element = self.element(css);
        self.post(&format!("/element/{element}/value"), &json!({ "text": text }));
    }

    /// Presses one key, wherever the focus is.
    pub fn key(&self, key: &str) {
        let actions = json!([{ "type": "key", "id": "keyboard", "actions": [
            { "type": "keyDown", "value": key }, { "type": "keyUp", "value": key },
        ]}]);
        self.post("/actions", &json!({ "actions": actions }));
    }

    /// A window of this size, in these colours.
    pub fn look(&self, width: u32, height: u32, dark: bool) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 }),
        );
        let scheme = if dark { "dark" } else { "light" };
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
    }

    /// With scripts, or without.
    pub fn scripting(&self, on: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": !on }));
    }

    /// The whole page, as a picture.
    pub fn picture(&self, path: &Path) {
        let whole = self.devtools(
            "Page.captureScreenshot",
            json!({ "format": "png", "captureBeyondViewport": true, "fromSurface": true }),
        );
        let octets =
            base64::engine::general_purpose::STANDARD.decode(whole["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, octets).unwrap();
    }

    /// What the console said since it was asked last: errors and warnings.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().unwrap().iter();
        let bad = lines.filter(|line| matches!(line["level"].as_str(), Some("SEVERE" | "WARNING")));
        bad.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Every address it asked for since it was asked last.
    pub fn requests(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "performance" }));
        let mut urls = Vec::new();
        for line in log.as_array().unwrap() {
            let message: Value = serde_json::from_str(line["message"].as_str().unwrap()).unwrap();
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                urls.push(message["params"]["request"]["url"].as_str().unwrap().to_owned());
            }
        }
        urls
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session; what is left of either is ended with the driver.
        let _ = self.agent.delete(&self.at).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The port chromedriver chose.
fn port(driver: &mut Child) -> u16 {
    let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    loop {
        let line = told.recv_timeout(LIMIT).expect("chromedriver says where it listens");
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            return port.trim_end_matches('.').parse().unwrap();
        }
    }
}
