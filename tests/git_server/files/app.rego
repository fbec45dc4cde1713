package app

default allow = false

# Whoever is in the right place may come in.
allow {
	data.users[input.user].location == input.place
}
