//! The one place where routes are added: each with what it takes, answers and refuses, so that what is served
//! and what is described ([`super::openapi`]) are the same list.
//!
//! ```text
//! Routes::new().get("/v1/devices", devices::list,
//!     About::new("Devices that match").query::<devices::List>().answers::<Page<Device>>("device.list"))
//! ```

use axum::{Router, handler::Handler, routing};
use muster_shared::Code;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::Doors;

/// A type's schema, asked for when the document is made.
pub(super) type Shape = fn(&mut SchemaGenerator) -> Schema;

/// What a body is made of.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// A JSON document.
    Json(Shape),
    /// Octets that are read, or written, as they come: media type and what they are.
    Raw(&'static str, &'static str),
    /// No body.
    Nothing,
}

/// What a route does, for the document and for what surrounds it.
pub(super) struct About {
    pub(super) summary: &'static str,
    pub(super) query: Option<Shape>,
    /// Words a path parameter may be, where it is not free.
    pub(super) words: Vec<(&'static str, Vec<&'static str>)>,
    pub(super) body: Content,
    /// It does without a body too.
    pub(super) may_be_empty: bool,
    pub(super) answer: Content,
    /// `device.list` of `muster.device.list/1`; empty where the answer has no such name.
    pub(super) document: &'static str,
    /// The status of the good answer.
    pub(super) status: u16,
    pub(super) refuses: Vec<Code>,
    /// Anybody may ask, without a token.
    pub(super) open: bool,
    /// Its answer holds what is shown once: it is never kept.
    pub(super) secret: bool,
    /// It takes `If-Match`.
    pub(super) versioned: bool,
}

impl About {
    /// A route that answers nothing in particular yet.
    pub(super) fn new(summary: &'static str) -> Self {
        Self {
            summary,
            query: None,
            words: Vec::new(),
            body: Content::Nothing,
            may_be_empty: false,
            answer: Content::Nothing,
            document: "",
            status: 200,
            refuses: Vec::new(),
            open: false,
            secret: false,
            versioned: false,
        }
    }

    /// It takes these parameters in its query.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(|generator| generator.subschema_for::<T>());
        self
    }

    /// It takes this JSON document.
    pub(super) fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Content::Json(|generator| generator.subschema_for::<T>());
        self
    }

    /// It takes this JSON document, or no body at all.
    pub(super) fn may_take<T: JsonSchema>(self) -> Self {
        Self { may_be_empty: true, ..self.takes::<T>() }
    }

    /// It takes octets as they are.
    pub(super) fn takes_raw(mut self, media: &'static str, what: &'static str) -> Self {
        self.body = Content::Raw(media, what);
        self
    }

    /// It answers this JSON document, `muster.NAME/1`.
    pub(super) fn answers<T: JsonSchema>(mut self, name: &'static str) -> Self {
        self.answer = Content::Json(|generator| generator.subschema_for::<T>());
        self.document = name;
        self
    }

    /// It answers octets as they are.
    pub(super) fn answers_raw(mut self, media: &'static str, what: &'static str) -> Self {
        self.answer = Content::Raw(media, what);
        self
    }

    /// The good answer has this status.
    pub(super) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// It refuses with these codes beside those that every route has.
    pub(super) fn refuses(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.refuses.extend(codes);
        self
    }

    /// A path parameter is one of these words.
    pub(super) fn words(
        mut self,
        parameter: &'static str,
        words: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        self.words.push((parameter, words.into_iter().collect()));
        self
    }

    /// Anybody may ask, without a token.
    pub(super) fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Its answer holds what is shown once.
    pub(super) fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// It takes `If-Match` with the version of what it changes.
    pub(super) fn versioned(mut self) -> Self {
        self.versioned = true;
        self.refuses([Code::DeviceChanged])
    }
}

/// A route as it was added.
pub(super) struct Route {
    /// In capitals.
    pub(super) method: &'static str,
    /// With `{parameters}`.
    pub(super) path: &'static str,
    pub(super) about: About,
}

/// The routes, while they are added.
pub(super) struct Routes {
    router: Router<Doors>,
    list: Vec<Route>,
}

macro_rules! methods {
    ($($name:ident $method:literal),+) => {
        impl Routes {$(
            #[doc = concat!("Adds a route for ", $method, ".")]
            pub(super) fn $name<H, T>(mut self, path: &'static str, handler: H, about: About) -> Self
            where
                H: Handler<T, Doors>,
                T: 'static,
            {
                self.router = self.router.route(path, routing::$name(handler));
                self.list.push(Route { method: $method, path, about });
                self
            }
        )+}
    };
}

methods!(get "GET", post "POST", put "PUT");

impl Routes {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { router: Router::new(), list: Vec::new() }
    }

    /// The router, and what is in it.
    pub(super) fn finish(self) -> (Router<Doors>, Vec<Route>) {
        (self.router, self.list)
    }

    /// What is in it.
    pub(super) fn list(&self) -> &[Route] {
        &self.list
    }
}
