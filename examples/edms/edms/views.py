"""Just enough web to see, from outside, whether a logged-in user notices a restore."""

from django.contrib.auth import authenticate, login
from django.http import FileResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from edms.documents.models import Document


@require_POST
def log_in(request):
    """Starts a session, kept in the database."""
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return JsonResponse({"error": "wrong name or password"}, status=403)
    login(request, user)
    return me(request)


def me(request):
    """Who the session belongs to, and their roles."""
    if not request.user.is_authenticated:
        return JsonResponse({"error": "not logged in"}, status=401)
    roles = request.user.roles.order_by("code").values_list("code", flat=True)
    return JsonResponse({"id": request.user.pk, "username": request.user.username, "roles": list(roles)})


@require_GET
def document_file(request, pk):
    """The upload of one document."""
    if not request.user.is_authenticated:
        return JsonResponse({"error": "not logged in"}, status=401)
    return FileResponse(get_object_or_404(Document, pk=pk).file.open())
