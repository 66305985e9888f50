// Package chaos breaks a cluster while it takes payments at a constant rate: engines
// are killed and come back, processes stand still, a connection is cut or slow, a
// disk fills. It measures what clients saw meanwhile and how long what had piled up
// took afterwards, and in the end holds core, prepay, the ledger, the clients'
// vouchers and the PSP's takings against each other.
package chaos
