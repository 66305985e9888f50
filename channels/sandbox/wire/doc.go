// Package wire is the sandbox PSP's protocol as bytes: the bodies, the headers
// and the signatures that its driver and its simulator both speak. PROTOCOL.md in
// the folder above is the description for whoever writes another implementation;
// the golden vectors in this package's tests were made by other tools.
package wire
