//! The page's own files, in the binary. A file's name holds its digest, so a browser may keep it for ever.

use std::sync::LazyLock;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use muster_shared::Code;
use sha2::{Digest as _, Sha256};

use crate::api::{Path, error::Problem};

struct Asset {
    name: String,
    kind: &'static str,
    octets: &'static [u8],
}

impl Asset {
    fn new(stem: &str, ending: &str, kind: &'static str, octets: &'static [u8]) -> Self {
        let digest = hex::encode(&Sha256::digest(octets)[..8]);
        Self { name: format!("{stem}-{digest}.{ending}"), kind, octets }
    }
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        Asset::new("muster", "css", "text/css; charset=utf-8", include_bytes!("../../../assets/muster.css")),
        Asset::new(
            "muster",
            "js",
            "text/javascript; charset=utf-8",
            include_bytes!("../../../assets/muster.js"),
        ),
        Asset::new("icon", "svg", "image/svg+xml", include_bytes!("../../../assets/icon.svg")),
    ]
});

/// Addresses of the style sheet, the script and the icon.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) css: &'static str,
    pub(super) js: &'static str,
    pub(super) icon: &'static str,
}

/// Their names in this build.
pub(super) fn addresses() -> Addresses {
    let [css, js, icon] = &*ASSETS;
    Addresses { css: &css.name, js: &js.name, icon: &icon.name }
}

/// A file by its name. One of another build is not here: its page is not either.
pub(super) async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    let asset = ASSETS.iter().find(|asset| asset.name == name);
    let asset = asset.ok_or_else(|| Problem::new(Code::RouteUnknown))?;
    let mut response = asset.octets.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    let for_ever = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, for_ever);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_changes_with_what_is_in_the_file() {
        let of = |octets| Asset::new("muster", "css", "text/css", octets).name;
        assert_ne!(of(b"a {}"), of(b"b {}"));
        assert_eq!(of(b"a {}"), of(b"a {}"));
    }

    #[test]
    fn nothing_is_loaded_from_outside_and_nothing_is_inline() {
        for asset in &*ASSETS {
            let text = std::str::from_utf8(asset.octets).unwrap();
            for outside in ["http:", "https:", "@import", "url(", "eval(", "innerHTML ="] {
                let text = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(outside), "{} has {outside}", asset.name);
            }
        }
    }
}
