// Package layout holds the rules about the source tree that its tests enforce: what the
// top-level directories are, who may import whom, that every package says what it is
// for, and how long a file may be.
package layout
