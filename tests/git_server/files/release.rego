package release

number = 1
