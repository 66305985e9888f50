// Package engines starts the engines of the cluster profile for tests and the
// demo: real ones, each in a folder and on ports of its own, as children that the
// kernel kills when this process dies. deploy/engines/install, which Start calls,
// installs what is missing, unless it is told where engines are.
package engines
