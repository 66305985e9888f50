// Package strictyaml reads the files that operators write: one YAML document into
// a struct, without unknown or repeated keys, and without anything that a decoder
// would pass over in silence. Errors name the key, its line and the fix.
package strictyaml
