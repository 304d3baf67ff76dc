"""Who may do what: requests to all REST operations and root fields of GraphQL, with the outcomes for three callers.

Each operation and root field needs at least one row; test_access.py sends the requests, natively and in the sandbox.
``$name`` is one of the owner's things, which ``prepare`` there makes: its UUID in REST, its id in GraphQL. A field of
GraphQL without a selection gets the shortest one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

Outcome: TypeAlias = int | str | bool | None
"""REST: the status. GraphQL: OK, the code of an error, the type of a Problem, or the value of the only field. Of a
list, in both: the number of its items that are not null, such as "2 listed"."""

OK = "ok"
NOBODY = "not_signed_in"
SILENT = "silent"
"""A subscription without events."""


@dataclass(frozen=True)
class Row:
    request: str
    """``METHOD /path``, or ``Type.field(arguments) { selection }``."""
    anonymous: Outcome
    stranger: Outcome
    owner: Outcome
    body: Any = None
    """JSON, or bytes."""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_rest(self) -> bool:
        return " /" in self.request

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {"anonymous": self.anonymous, "stranger": self.stranger, "owner": self.owner}


PASSWORD = {"current_password": "$password"}
BYTES = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
IMPRESSION = {"media_id": "$public", "surface": "feed", "position": 0}
IMPRESSIONS = '{impressions: [{mediaId: $public, surface: FEED, position: 0}], key: "1"}'

# Rows: the request, and its outcomes for an anonymous visitor, a stranger and the owner.
READS = [
    # Accounts
    Row("GET /auth/.well-known/jwks.json", 200, 200, 200),
    Row("GET /.well-known/oauth-authorization-server", 200, 200, 200),
    Row("GET /user/token_verify", 401, 200, 200),
    Row("GET /auth/sessions", 401, "1 listed", "3 listed"),
    Row("Query.sessions", NOBODY, "1 listed", "3 listed"),
    Row("GET /user/profile", 401, 200, 200),
    Row("Query.me { email }", NOBODY, OK, OK),
    Row("GET /user/$owner", 200, 200, 200),
    Row("GET /user/by-name/$username", 200, 200, 200),
    Row("POST /user/list", "1 listed", "1 listed", "1 listed", {"ids": ["$owner"]}),
    Row("Query.user(id: $owner) { username }", OK, OK, OK),
    Row("Query.users(ids: [$owner])", "1 listed", "1 listed", "1 listed"),
    Row("GET /user/export", 401, 404, 200),
    Row("Query.export { downloadUrl }", NOBODY, None, OK),
    Row("GET /user/export/$export/archive?$export_signature", 200, 200, 200),
    Row("GET /user/export/$export/archive?exp=9999999999&sig=x", 403, 403, 403),
    Row("Query.node(id: $profile) { ...on Profile { email } }", NOBODY, None, OK),
    Row("Query.node(id: $session) { ...on Session { address } }", NOBODY, None, OK),
    # Videos
    Row("GET /media/categories", 200, 200, 200),
    Row("Query.categories", OK, OK, OK),
    Row("GET /media/feed", 200, 200, 200),
    Row("Query.feed", OK, OK, OK),
    Row("GET /media?owner=$owner", "1 listed", "1 listed", "1 listed"),
    Row("Query.search(ownerId: $owner)", "1 listed", "1 listed", "1 listed"),
    Row("GET /media/users/$owner", "1 listed", "1 listed", "5 listed"),
    Row("Query.uploads", NOBODY, "0 listed", "5 listed"),
    Row("GET /media/$public", 200, 200, 200),
    Row("GET /media/$private", 404, 404, 200),
    Row("Query.media(id: $public)", OK, OK, OK),
    Row("Query.media(id: $private)", None, None, OK),
    Row("Query.media(id: $public) { viewerHasLiked }", False, False, True),
    Row("Query.media(id: $public) { viewerPosition }", None, None, 1),
    Row("Query.media(id: $public) { retention }", NOBODY, "not_the_owner", "100 listed"),
    Row("Query.media(id: $public) { video { streamUrl } }", OK, OK, OK),
    Row("Query.mediaList(ids: [$public, $private]) { uuid }", "1 listed", "1 listed", "2 listed"),
    Row("Query.node(id: $private)", None, None, OK),
    Row("Query.node(id: $private_video)", None, None, OK),
    Row("Query.nodes(ids: [$public_video, $private_video])", "1 listed", "1 listed", "2 listed"),
    Row("GET /media/$public/retention", 401, 403, 200),
    Row("GET /media/$private/retention", 401, 404, 200),
    Row("GET /video/$public", 200, 200, 200),
    Row("GET /video/$private", 404, 404, 200),
    Row("GET /video/$public/progress", 401, 403, 200),
    Row("GET /video/$private/progress", 401, 404, 200),
    Row("GET /video/$public/master.m3u8", 200, 200, 200),
    Row("GET /video/$private/master.m3u8", 404, 404, 200),
    Row("GET /video/$private/master.m3u8?$signature", 200, 200, 200),
    Row("GET /video/$public/$rendition.m3u8", 200, 200, 200),
    Row("GET /video/$private/$rendition.m3u8", 404, 404, 200),
    Row("GET /video/$public/$rendition/$init.mp4", 200, 200, 200),
    Row("GET /video/$private/$rendition/$init.mp4", 404, 404, 404),
    Row("GET /video/$private/$rendition/$init.mp4?$signature", 200, 200, 200),
    Row("GET /video/$public/$rendition/$segment.m4s", 200, 200, 200),
    Row("GET /video/$private/$rendition/$segment.m4s", 404, 404, 404),
    Row("GET /video/$public/$poster.jpg", 200, 200, 200),
    Row("GET /video/$private/$poster.jpg", 404, 404, 404),
    Row("GET /video/$public/$storyboard.vtt", 404, 404, 404),  # no video has one yet
    Row("OPTIONS /video/upload", 204, 204, 204),
    Row("OPTIONS /video/upload/$upload", 204, 204, 204),
    Row("HEAD /video/upload/$upload", 401, 404, 200),
    # What people do with them
    Row("GET /media/likes", 401, "0 listed", "2 listed"),
    Row("Query.likedMedia", NOBODY, "0 listed", "2 listed"),
    Row("GET /media/history", 401, "0 listed", "1 listed"),
    Row("Query.history", NOBODY, "0 listed", "1 listed"),
    Row("GET /media/personalisation", 401, 200, 200),
    Row("Query.personalisation", NOBODY, True, True),
    Row("GET /media/dashboard", 401, 200, 200),
    Row("Query.dashboard { totals { subscribers } }", NOBODY, 0, 1),
    Row("Query.dashboard { days { changes { subscribers } } }", NOBODY, "0 listed", "1 listed"),
    Row("GET /media/subscriptions", 401, "1 listed", "0 listed"),
    Row("Query.subscriptions", NOBODY, "1 listed", "0 listed"),
    Row("GET /media/subscriptions/media", 401, "1 listed", "0 listed"),
    Row("Query.subscribedMedia", NOBODY, "1 listed", "0 listed"),
    Row("Query.channel(id: $owner) { viewerIsSubscribed }", False, True, False),
    Row("Query.channel(handle: $username) { media { nodes { uuid } } }", "1 listed", "1 listed", "5 listed"),
    Row("GET /media/$public/comments", "2 listed", "2 listed", "2 listed"),
    Row("GET /media/$private/comments", 404, 404, "1 listed"),
    Row("Query.media(id: $private) { comments { nodes { uuid } } }", None, None, "1 listed"),
    Row("GET /media/$public/comments/$comment/replies", "2 listed", "2 listed", "2 listed"),
    Row("GET /media/$private/comments/$private_comment/replies", 404, 404, "0 listed"),
    Row("Query.node(id: $comment) { ...on Comment { viewerHasLiked } }", False, False, True),
    Row("Query.node(id: $private_comment)", None, None, OK),
    Row("GET /media/playlists", 401, "0 listed", "3 listed"),
    Row("GET /media/users/$owner/playlists", "1 listed", "1 listed", "3 listed"),
    Row("Query.playlists(userId: $owner)", "1 listed", "1 listed", "3 listed"),
    Row("GET /media/playlists/$playlist", 200, 200, 200),
    Row("GET /media/playlists/$private_playlist", 404, 404, 200),
    Row("Query.playlist(id: $playlist) { title }", "Best", "Best", "Best"),
    Row("Query.playlist(id: $playlist) { owner { username } }", OK, OK, OK),
    Row("Query.playlist(id: $private_playlist)", None, None, OK),
    Row("GET /media/playlists/$playlist/items", "1 listed", "1 listed", "2 listed"),
    Row("GET /media/playlists/$private_playlist/items", 404, 404, "0 listed"),
    Row("Query.playlist(id: $playlist) { items { nodes { addedAt } } }", "1 listed", "1 listed", "2 listed"),
    Row("GET /media/playlists/watch-later", 401, 200, 200),
    Row("Query.watchLater { kind }", NOBODY, "WATCH_LATER", "WATCH_LATER"),
    Row("Query.watchLater { visibility }", NOBODY, "PRIVATE", "PRIVATE"),
    Row("Query.node(id: $watch_later)", None, None, OK),
    Row("GET /media/notifications", 401, "1 listed", "2 listed"),
    Row("Query.notifications", NOBODY, "1 listed", "2 listed"),
    Row("GET /media/notifications/unread", 401, 200, 200),
    Row("Query.unreadNotifications", NOBODY, 1, 2),
    Row("Query.node(id: $notification)", NOBODY, None, OK),
]

# The first event, while the owner posts comments on both videos and publishes one.
SUBSCRIPTIONS = [
    Row("Subscription.videoProgress(id: $public_video)", NOBODY, "not_the_owner", OK),
    Row("Subscription.videoProgress(id: $private_video)", NOBODY, "video_not_found", OK),
    Row("Subscription.uploadsProgress", NOBODY, SILENT, OK),
    Row("Subscription.commentPosted(mediaId: $public)", OK, OK, OK),
    Row("Subscription.commentPosted(mediaId: $private)", "media_not_found", "media_not_found", OK),
    Row("Subscription.mediaPublished", NOBODY, OK, SILENT),
]

# The lists at the same time, each in its order; each request by the owner last, who may delete what it is about.
WRITES = [
    # Accounts
    [
        Row("POST /auth/register", 422, 422, 422, {}),  # like login, it succeeds in client.register
        Row("Mutation.register(input: {username: $username, email: $email, password: $password})", OK, OK, OK),
        Row("POST /auth/login", 422, 422, 422, {}),
        Row("Mutation.login(input: {login: $username, password: $password})", OK, OK, OK),
        Row("POST /auth/refresh", 200, 200, 200, {"refresh_token": "$refresh_token"}),
        Row("Mutation.refresh(input: {refreshToken: $other_refresh_token})", OK, OK, OK),
        Row("PATCH /user/profile", 401, 200, 200, {"bio": "Counts."}),
        Row('Mutation.updateProfile(input: {bio: ""})', NOBODY, OK, OK),
        Row("DELETE /auth/sessions/$session", 401, 404, 204),
        Row("Mutation.revokeSession(id: $other_session)", NOBODY, "SessionNotFound", OK),
        Row("POST /user/export", 401, 202, 202),
        Row("DELETE /user/export", 401, 204, 204),
        Row("Mutation.requestExport", NOBODY, OK, OK),
        Row("Mutation.cancelExport", NOBODY, OK, OK),
    ],
    # Videos
    [
        Row("POST /media", 401, 201, 201, {"title": "New", "filename": "new.mp4", "size": 10}),
        Row('Mutation.createUpload(input: {title: "New", filename: "new.mp4", size: 10})', NOBODY, OK, OK),
        Row("POST /video/upload", 401, 201, 201, headers={"Upload-Length": "10"}),
        Row("PATCH /video/upload/$upload", 401, 404, 204, b"bytes", BYTES),
        Row("DELETE /video/upload/$upload", 401, 404, 204),
        Row("PATCH /media/$public", 401, 403, 200, {"title": "New"}),
        Row("PATCH /media/$private", 401, 404, 200, {"title": "New"}),
        Row('Mutation.updateMedia(id: $public, input: {title: "Newer"})', NOBODY, "NotTheOwner", OK),
        Row('Mutation.updateMedia(id: $private, input: {title: "Newer"})', NOBODY, "MediaNotFound", OK),
        Row("PATCH /video/$public", 401, 403, 202, {"poster_time": 0.5}),
        Row("PATCH /video/$private", 401, 404, 202, {"poster_time": 0.5}),
        Row("Mutation.choosePoster(id: $public_video, time: 0.7)", NOBODY, "NotTheOwner", OK),
        Row("Mutation.choosePoster(id: $private_video, time: 0.7)", NOBODY, "VideoNotFound", OK),
    ],
    # Views, likes and subscriptions
    [
        Row("POST /media/$public/views", 204, 204, 204, {"position": 1}),
        Row("POST /media/$private/views", 404, 404, 204, {"position": 1}),
        Row("Mutation.recordView(input: {mediaId: $public, position: 1})", OK, OK, OK),
        Row("Mutation.recordView(input: {mediaId: $private, position: 1})", "MediaNotFound", "MediaNotFound", OK),
        Row("POST /media/impressions", 204, 204, 204, {"impressions": [IMPRESSION]}),
        Row(f"Mutation.recordImpressions(input: {IMPRESSIONS})", OK, OK, OK),
        Row("PUT /media/personalisation", 401, 200, 200, {"enabled": True}),
        Row("Mutation.setPersonalisation(enabled: true)", NOBODY, OK, OK),
        Row("PUT /media/$public/like", 401, 200, 200),
        Row("PUT /media/$private/like", 401, 404, 200),
        Row("DELETE /media/$public/like", 401, 200, 200),
        Row("DELETE /media/$private/like", 401, 404, 200),
        Row("Mutation.like(mediaId: $public)", NOBODY, OK, OK),
        Row("Mutation.like(mediaId: $private)", NOBODY, "MediaNotFound", OK),
        Row("Mutation.unlike(mediaId: $public)", NOBODY, OK, OK),
        Row("Mutation.unlike(mediaId: $private)", NOBODY, "MediaNotFound", OK),
        Row("PUT /media/$public/hidden", 401, 204, 204),
        Row("PUT /media/$private/hidden", 401, 404, 204),
        Row("DELETE /media/$public/hidden", 401, 204, 204),
        Row("Mutation.notInterested(mediaId: $public)", NOBODY, OK, OK),
        Row("Mutation.notInterested(mediaId: $private)", NOBODY, "MediaNotFound", OK),
        Row("Mutation.interested(mediaId: $public)", NOBODY, OK, OK),
        Row("PUT /media/users/$owner/hidden", 401, 204, 204),
        Row("DELETE /media/users/$owner/hidden", 401, 204, 204),
        Row("Mutation.hideChannel(channelId: $owner)", NOBODY, OK, OK),
        Row("Mutation.unhideChannel(channelId: $owner)", NOBODY, OK, OK),
        Row("PUT /media/users/$owner/subscription", 401, 200, 422),
        Row("DELETE /media/users/$owner/subscription", 401, 200, 200),
        Row("Mutation.subscribe(channelId: $owner)", NOBODY, OK, "InvalidInput"),
        Row("Mutation.unsubscribe(channelId: $owner)", NOBODY, OK, OK),
        Row("DELETE /media/$public/history", 401, 204, 204),
        Row("Mutation.removeFromHistory(mediaId: $public)", NOBODY, OK, OK),
        Row("DELETE /media/history", 401, 204, 204),
        Row("Mutation.clearHistory", NOBODY, OK, OK),
    ],
    # Comments
    [
        Row("POST /media/$public/comments", 401, 201, 201, {"body": "New"}),
        Row("POST /media/$private/comments", 401, 404, 201, {"body": "New"}),
        Row('Mutation.postComment(input: {mediaId: $public, body: "New", key: "1"})', NOBODY, OK, OK),
        Row('Mutation.postComment(input: {mediaId: $private, body: "New", key: "1"})', NOBODY, "MediaNotFound", OK),
        Row("PATCH /media/$public/comments/$comment", 401, 403, 200, {"body": "Newer"}),
        Row("PATCH /media/$private/comments/$private_comment", 401, 404, 200, {"body": "Newer"}),
        Row('Mutation.editComment(id: $comment, body: "New")', NOBODY, "NotTheAuthor", OK),
        Row('Mutation.editComment(id: $private_comment, body: "New")', NOBODY, "CommentNotFound", OK),
        Row("PATCH /media/$public/comments/$reply", 401, 200, 403, {"body": "Newer"}),  # the stranger's
        Row('Mutation.editComment(id: $reply, body: "New")', NOBODY, OK, "NotTheAuthor"),
        Row("PUT /media/$public/comments/$comment/like", 401, 200, 200),
        Row("PUT /media/$private/comments/$private_comment/like", 401, 404, 200),
        Row("DELETE /media/$public/comments/$comment/like", 401, 200, 200),
        Row("Mutation.likeComment(id: $comment)", NOBODY, OK, OK),
        Row("Mutation.likeComment(id: $private_comment)", NOBODY, "CommentNotFound", OK),
        Row("Mutation.unlikeComment(id: $comment)", NOBODY, OK, OK),
        Row("PUT /media/$public/comments/$comment/pin", 401, 403, 200),
        Row("PUT /media/$private/comments/$private_comment/pin", 401, 404, 200),
        Row("DELETE /media/$public/comments/$comment/pin", 401, 403, 200),
        Row("Mutation.pinComment(id: $comment)", NOBODY, "NotTheOwner", OK),
        Row("Mutation.pinComment(id: $private_comment)", NOBODY, "CommentNotFound", OK),
        Row("Mutation.unpinComment(id: $comment)", NOBODY, "NotTheOwner", OK),
        Row("DELETE /media/$public/comments/$comment", 401, 403, 204),
        Row("Mutation.deleteComment(id: $other_comment)", NOBODY, "NotTheAuthor", OK),
    ],
    # Playlists and notifications
    [
        Row("POST /media/playlists", 401, 201, 201, {"title": "New"}),
        Row('Mutation.createPlaylist(input: {title: "New", key: "1"})', NOBODY, OK, OK),
        Row("PATCH /media/playlists/$playlist", 401, 403, 200, {"title": "Newer"}),
        Row("PATCH /media/playlists/$private_playlist", 401, 404, 200, {"title": "Newer"}),
        Row('Mutation.updatePlaylist(id: $playlist, input: {title: "New"})', NOBODY, "NotTheOwner", OK),
        Row('Mutation.updatePlaylist(id: $private_playlist, input: {title: "New"})', NOBODY, "PlaylistNotFound", OK),
        Row("PUT /media/playlists/$playlist/items/$public", 401, 403, 200, {}),
        Row("PUT /media/playlists/$watch_later/items/$public", 401, 404, 200, {}),
        Row("DELETE /media/playlists/$playlist/items/$public", 401, 403, 200),
        Row("Mutation.placeInPlaylist(id: $playlist, mediaId: $public)", NOBODY, "NotTheOwner", OK),
        Row("Mutation.placeInPlaylist(id: $watch_later, mediaId: $public)", NOBODY, "PlaylistNotFound", OK),
        Row("Mutation.removeFromPlaylist(id: $playlist, mediaId: $public)", NOBODY, "NotTheOwner", OK),
        Row("PUT /media/notifications/read", 401, 200, 200, {"ids": ["$notification"]}),
        Row("Mutation.markNotificationsRead(input: {ids: [$notification]})", NOBODY, OK, OK),
        Row("DELETE /media/playlists/$playlist", 401, 403, 204),
        Row("Mutation.deletePlaylist(id: $private_playlist)", NOBODY, "PlaylistNotFound", OK),
        Row("DELETE /media/notifications/$notification", 401, 404, 204),
        Row("Mutation.deleteNotification(id: $other_notification)", NOBODY, "NotificationNotFound", OK),
    ],
]

# Then, in this order.
DELETIONS = [
    Row("DELETE /media/$draft", 401, 403, 204),
    Row("DELETE /video/$private_draft", 401, 404, 204),
    Row("Mutation.deleteMedia(id: $private)", NOBODY, "MediaNotFound", OK),
    Row("Mutation.deleteVideo(id: $public_video)", NOBODY, "NotTheOwner", OK),
    Row("PUT /auth/password", 401, 403, 204, {**PASSWORD, "new_password": "$new_password"}),
    Row(
        "Mutation.changePassword(input: {currentPassword: $new_password, newPassword: $password})",
        NOBODY,
        "WrongPassword",
        OK,
    ),
    Row("POST /auth/logout", 401, 204, 204),
    Row("Mutation.logout", NOBODY, OK, OK),
    Row("POST /auth/logout-all", 401, 204, 204),
    Row("Mutation.logoutAll", NOBODY, OK, OK),
    Row("Mutation.deleteAccount(input: {currentPassword: $password})", NOBODY, "WrongPassword", OK),
    # The stranger deletes the own account. The owner's is gone.
    Row("DELETE /user/profile", 401, 204, 401, {"current_password": "$stranger_password"}),
]
