// Package image pulls container images from registries and keeps the record of every
// image that is whole.
//
// A pull resolves a reference, reads the manifest and the configuration for this
// platform, and streams each layer that the layer store lacks: fetched, checked,
// inflated and handed over in one pass, without a copy of the compressed blob on disk.
// The record of the image is written when all its layers are in, so a record always
// stands for a whole image; an image without a record does not exist.
//
// What lies in the directory is one file of JSON per image, named after the image's id,
// which is the digest of its configuration. Everything else is derived: layers that no
// record names are rubbish and swept when the store opens, when a pull fails and when an
// image is removed.
//
// An OCI artifact is kept like an image. Its id is the digest of its manifest, and each of
// its blobs is a layer with one file.
//
// Layers are shared by their diff id between all images of the node, whatever registry
// and credential they came with: who knows the digest of a layer is taken for one who
// may have it, as elsewhere in the field. Manifests are not shared that way: every pull
// asks the registry, with its own credential.
package image
