//! What a person and a project configure: the layers, the questions about what widens access, and that it all really runs.

mod consent;
mod layers;
mod scene;
