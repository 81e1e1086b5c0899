//! Integration tests of the mesh.
